#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"

namespace quern {

// Tells which items have expired, by a clock that may jump back.
//
// The rule: an item has expired once its time is over on the clock, and stays
// so when the clock jumps back; an item written after the jump is judged by
// what the clock shows since then. So a jump brings no item back, and takes
// none that is written later, however far ahead the clock once was.
// Thread-safe.
class Expiry {
 public:
  // `clock` must outlive this.
  explicit Expiry(const Clock* clock) : clock_(clock) {}

  // What the clock has shown up to a look at it.
  class View {
   public:
    // Whether an item, last written as `sequence`, is gone by now.
    bool Expired(uint64_t sequence,
                 std::optional<absl::Time> expire_time) const {
      if (!expire_time.has_value()) return false;
      if (*expire_time <= now_) return true;
      for (const Peak& peak : peaks_) {
        if (sequence <= peak.last_sequence && *expire_time <= peak.time) {
          return true;
        }
      }
      return false;
    }

    // No item whose time is later has expired.
    absl::Time latest() const {
      return peaks_.empty() ? now_ : peaks_.front().time;
    }

   private:
    friend class Expiry;
    struct Peak {
      absl::Time time;
      uint64_t last_sequence;
    };

    absl::Time now_;
    // Falling times, rising sequences: more than one only after a jump back.
    std::vector<Peak> peaks_;
  };

  // Looks at the clock. `last_sequence` is the last write that was done before.
  View Look(uint64_t last_sequence);

  // Everything that has expired by `view` was removed: jumps back to before it
  // need not be remembered any more.
  void Forget(const View& view);

 private:
  const Clock* const clock_;
  absl::Mutex mutex_;
  std::vector<View::Peak> peaks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
