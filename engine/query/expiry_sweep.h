#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/query/catalog.h"

namespace quern {

// Removes expired items in the background, on a thread of its own. What has
// expired is invisible before that. Thread-safe.
class ExpirySweep {
 public:
  // `catalog` must outlive this. One round begins each `interval`, by the
  // machine's clock.
  explicit ExpirySweep(const Catalog* catalog,
                       absl::Duration interval = absl::Seconds(1));
  ~ExpirySweep();

  ExpirySweep(const ExpirySweep&) = delete;
  ExpirySweep& operator=(const ExpirySweep&) = delete;

 private:
  void Run();
  // Removes what has expired; returns early when closing.
  void Round();
  bool closing() const {
    absl::MutexLock lock(&mutex_);
    return closing_;
  }

  const Catalog* const catalog_;
  const absl::Duration interval_;
  mutable absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quern
