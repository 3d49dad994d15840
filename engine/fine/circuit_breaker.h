#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace quern {

struct CircuitBreakerOptions {
  int failures = 3;  // In a row, after which it opens; >= 1.
  // How long it stays open: doubled each time a trial fails.
  absl::Duration first_pause = absl::Milliseconds(250);
  absl::Duration longest_pause = absl::Seconds(10);
};

// Keeps callers from an endpoint that fails (Nygard, "Release It!", 2007,
// section 5.2). It begins open, its pause over: an endpoint must answer a probe
// before it is relied on. Times are the caller's, and must not go back. Not
// thread-safe.
//
// Life: open -> (the pause is over, a probe succeeds) -> half open: one call,
// the trial -> closed, or open again.
class CircuitBreaker {
 public:
  enum class State { kClosed, kHalfOpen, kOpen };

  explicit CircuitBreaker(CircuitBreakerOptions options = {})
      : options_(options) {}

  State state() const { return state_; }
  // When the next probe is due; of an open one.
  absl::Time next_probe() const { return next_probe_; }

  // Whether somebody must probe now; that one then calls EndProbe().
  bool TakeProbe(absl::Time now) {
    if (state_ != State::kOpen || is_probing_ || now < next_probe_) {
      return false;
    }
    is_probing_ = true;
    return true;
  }
  bool is_probing() const { return is_probing_; }
  void EndProbe(bool succeeded, absl::Time now) {
    is_probing_ = false;
    if (!succeeded) return Open(now);
    // What never was in use has nothing to prove.
    state_ = pause_ == absl::ZeroDuration() ? State::kClosed : State::kHalfOpen;
    failures_ = 0;
  }

  // Whether a call may be made; then Succeed(), Fail() or Forget() follows.
  bool TakeCall() {
    if (state_ == State::kClosed) return true;
    if (state_ == State::kOpen || is_tried_) return false;
    is_tried_ = true;
    return true;
  }
  void Succeed() {
    failures_ = 0;
    if (state_ != State::kHalfOpen) return;
    is_tried_ = false;
    state_ = State::kClosed;
    pause_ = absl::ZeroDuration();
  }
  void Fail(absl::Time now) {
    if (state_ == State::kOpen) return;  // A call from before it opened.
    if (state_ == State::kHalfOpen || ++failures_ >= options_.failures) {
      Open(now);
    }
  }
  // The call ended without telling anything of the endpoint.
  void Forget() { is_tried_ = false; }

 private:
  void Open(absl::Time now) {
    state_ = State::kOpen;
    is_tried_ = false;
    failures_ = 0;
    pause_ = pause_ == absl::ZeroDuration()
                 ? options_.first_pause
                 : std::min(2 * pause_, options_.longest_pause);
    next_probe_ = now + pause_;
  }

  const CircuitBreakerOptions options_;
  State state_ = State::kOpen;
  bool is_probing_ = false;
  bool is_tried_ = false;  // Half open, and its trial is under way.
  int failures_ = 0;       // In a row.
  absl::Duration pause_;   // Zero: it was closed last.
  absl::Time next_probe_ = absl::InfinitePast();
};

}  // namespace quern
