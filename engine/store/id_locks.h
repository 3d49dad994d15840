#pragma once

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace quern {

// Locks on item ids: writers of different ids run side by side and share a
// sync, writers of one id take turns. A writer gets all of its ids at once, so
// that no two can wait for each other. Thread-safe.
class IdLocks {
 public:
  IdLocks() = default;
  IdLocks(const IdLocks&) = delete;
  IdLocks& operator=(const IdLocks&) = delete;

  // Holds ids from its construction, which waits for them, to its end.
  class Holder {
   public:
    // `ids` are distinct. They and `locks` must outlive the holder.
    Holder(IdLocks& locks, std::vector<absl::string_view> ids);
    ~Holder();

    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

   private:
    IdLocks& locks_;
    const std::vector<absl::string_view> ids_;
  };

 private:
  absl::Mutex mutex_;
  absl::flat_hash_set<absl::string_view> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
