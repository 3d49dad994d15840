#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quern {

// How many calls may run on gRPC's own threads, instead of the pool's.
// Thread-safe.
class CallSlots {
 public:
  explicit CallSlots(int count) : count_(count) {}

  bool TryTake() {
    const absl::MutexLock lock(&mutex_);
    if (taken_ == count_) return false;
    ++taken_;
    return true;
  }

  void Return() {
    const absl::MutexLock lock(&mutex_);
    --taken_;
  }

  // Until every call that took one has left its code.
  void WaitUntilReturned() {
    const absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return taken_ == 0;
    };
    mutex_.Await(absl::Condition(&none));
  }

 private:
  const int count_;
  absl::Mutex mutex_;
  int taken_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quern
