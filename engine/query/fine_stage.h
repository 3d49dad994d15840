#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"
#include "engine/base/thread_pool.h"
#include "engine/query/fine_scores.h"

namespace quern {

struct FineStageOptions {
  std::string name = "scoring";  // Of the threads, at most 9 characters.
  int niceness = 0;              // Of the threads; 0 is that of the process.
  int threads = 16;              // Short lists that are scored at once; >= 1.
  size_t max_queue = 256;        // That may wait for a thread; >= 1.
  // Longest that one may take, > 0. It never takes more than four fifths of the
  // time left to its call, so that the coarse hits still come in time.
  absl::Duration timeout = absl::Seconds(10);
};

// Where short lists are scored by what may be slow, or never end: scorers
// elsewhere, and match heads; or, on another one's threads, by what takes all
// of a core for a while: grounding. It has its own threads, queue and share of
// a call's deadline, and what it does to a call at worst is to be late.
// Thread-safe.
class FineStage {
 public:
  // Gets a context of its own, which ends when nobody waits any more.
  using Work = std::function<absl::StatusOr<FineScores>(const RequestContext&)>;
  using Done = std::function<void(absl::StatusOr<FineScores>)>;

  // `calls` goes on with the calls; it must outlive the stage.
  FineStage(const FineStageOptions& options, ThreadPool* calls);
  // Shutdown().
  ~FineStage();

  FineStage(const FineStage&) = delete;
  FineStage& operator=(const FineStage&) = delete;

  // Calls `done` once, on a thread of `calls`, maybe before it returns. `work`
  // runs on a thread of the stage, at most once, and may still run after `done`
  // was called: it must own what it uses, but for what outlives the stage.
  // `context` must live until `done` is called. Errors:
  //   kResourceExhausted  the queue is full
  //   kDeadlineExceeded   the share of the deadline is used up
  //   kCancelled          the caller has gone
  //   those of `work`
  void Run(const RequestContext& context, Work work, Done done);

  // Ends what nobody waits for any more, and joins. No call may be waiting.
  // Idempotent.
  void Shutdown();

  int threads() const { return threads_.threads(); }
  int64_t queued() const { return static_cast<int64_t>(threads_.queued()); }

 private:
  class Call;

  void Watch();

  const FineStageOptions options_;
  ThreadPool* const calls_;

  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Call>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  ThreadPool threads_;
  std::thread watcher_;
};

}  // namespace quern
