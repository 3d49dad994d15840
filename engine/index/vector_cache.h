#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace quern {

// Vectors of segments' rows, as PrepareVector() leaves them: those that
// searches read last, within a bound of bytes. What a row of a segment stands
// for never changes, so nothing here is ever stale; rows of segments that are
// gone are driven out like all that nobody asks for. One cache serves all
// indexes. Thread-safe.
class VectorCache {
 public:
  struct Key {
    uint64_t segment = 0;  // Its Segment::serial().
    uint32_t row = 0;

    bool operator==(const Key& other) const = default;
    template <typename H>
    friend H AbslHashValue(H state, const Key& key) {
      return H::combine(std::move(state), key.segment, key.row);
    }
  };
  using Values = std::shared_ptr<const float[]>;

  struct Stats {
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t vectors = 0;
    int64_t bytes = 0;  // Of the vectors and what holds them, roughly.
  };

  // Zero keeps nothing.
  explicit VectorCache(int64_t max_bytes)
      : max_stripe_bytes_(max_bytes / static_cast<int64_t>(kStripes)) {}

  // As many values as were put for each key; null: it is not there.
  std::vector<Values> Find(absl::Span<const Key> keys);
  // Keeps a copy, unless the row is there. Makes room by second chance
  // (Corbato, "A Paging Experiment with the Multics System", 1968): what was
  // asked for since its last turn stays, so that vectors read once do not drive
  // out those read often.
  void Put(const Key& key, absl::Span<const float> values);

  Stats stats() const;

 private:
  // So that threads seldom meet.
  static constexpr size_t kStripes = 16;

  struct Entry {
    Values values;
    int64_t bytes = 0;
    bool asked = false;  // Since its last turn.
  };
  struct Stripe {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<Key, Entry> entries ABSL_GUARDED_BY(mutex);
    std::deque<Key> turns ABSL_GUARDED_BY(mutex);
    int64_t bytes ABSL_GUARDED_BY(mutex) = 0;
    int64_t hits ABSL_GUARDED_BY(mutex) = 0;
    int64_t misses ABSL_GUARDED_BY(mutex) = 0;
  };

  Stripe& StripeOf(const Key& key);
  static void MakeRoom(Stripe& stripe, int64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(stripe.mutex);

  const int64_t max_stripe_bytes_;
  std::array<Stripe, kStripes> stripes_;
};

}  // namespace quern
