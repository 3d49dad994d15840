#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"
#include "engine/base/lane.h"

namespace quern {

// Time spent in one stage of a request.
struct StageTime {
  std::string stage;  // "decode", "encode", "search", "fetch", ...
  absl::Duration duration;
};

// What travels with a request through the layers: its deadline, whether the
// caller has gone, its id, and the time each stage took.
//
// Cancel() and Check() are thread-safe; the stage times are not: one thread at
// a time works on a request's pipeline.
class RequestContext {
 public:
  // `clock` must outlive the context. A deadline of InfiniteFuture never
  // passes.
  RequestContext(const Clock* clock, std::string id,
                 absl::Time deadline = absl::InfiniteFuture(),
                 Lane lane = Lane::kInteractive)
      : clock_(clock), id_(std::move(id)), deadline_(deadline), lane_(lane) {}

  // For a part of `parent`'s work, with stage times of its own: it ends with
  // its parent, which must outlive it.
  struct PartOf {
    const RequestContext* parent;
  };
  explicit RequestContext(PartOf part)
      : clock_(part.parent->clock_),
        id_(part.parent->id_),
        deadline_(part.parent->deadline_),
        lane_(part.parent->lane_),
        parent_(part.parent) {}

  RequestContext(const RequestContext&) = delete;
  RequestContext& operator=(const RequestContext&) = delete;

  const std::string& id() const { return id_; }
  absl::Time deadline() const { return deadline_; }
  Lane lane() const { return lane_; }
  const Clock& clock() const { return *clock_; }

  void Cancel() { cancelled_.store(true, std::memory_order_release); }
  bool cancelled() const {
    return cancelled_.load(std::memory_order_acquire) ||
           (parent_ != nullptr && parent_->cancelled()) ||
           (caller_has_gone_ != nullptr && caller_has_gone_());
  }
  // Asked by cancelled() from now on, for who cannot be told by Cancel(). Set
  // before other threads see the context.
  void AskCaller(std::function<bool()> has_gone) {
    caller_has_gone_ = std::move(has_gone);
  }

  // Called between stages and inside long loops.
  // Errors:
  //   kCancelled         the caller has gone
  //   kDeadlineExceeded  the deadline has passed; `stage` is in the message
  absl::Status Check(absl::string_view stage) const;

  // Adds to the time of `stage`.
  void AddStageTime(absl::string_view stage, absl::Duration duration);
  const std::vector<StageTime>& stage_times() const { return stage_times_; }

 private:
  const Clock* const clock_;
  const std::string id_;
  const absl::Time deadline_;
  const Lane lane_;
  const RequestContext* const parent_ = nullptr;
  std::atomic<bool> cancelled_ = false;
  std::function<bool()> caller_has_gone_;  // Null: Cancel() tells.
  std::vector<StageTime> stage_times_;
};

// Adds the time from its construction to its end to a stage of the request.
class StageTimer {
 public:
  StageTimer(RequestContext& context, absl::string_view stage)
      : context_(context), stage_(stage), start_(context.clock().Now()) {}
  ~StageTimer() {
    context_.AddStageTime(stage_, context_.clock().Now() - start_);
  }

  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  RequestContext& context_;
  const absl::string_view stage_;  // A literal: it outlives the timer.
  const absl::Time start_;
};

}  // namespace quern
