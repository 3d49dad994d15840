#pragma once

#include <algorithm>
#include <cstdint>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quern {

// Numbers the writes of a store. Writers run side by side and may end in
// another order than they began; last() never passes one that is still under
// way, so that whoever has seen all writes up to it has missed none.
// Thread-safe.
class SequenceNumbers {
 public:
  // `last` is the number of the last write that is in the store.
  explicit SequenceNumbers(uint64_t last) : next_(last + 1), written_(last) {}

  SequenceNumbers(const SequenceNumbers&) = delete;
  SequenceNumbers& operator=(const SequenceNumbers&) = delete;

  // Numbers for one write, from its construction to its end.
  class Block {
   public:
    // `numbers` and this may not outlive it. `count` >= 1.
    Block(SequenceNumbers& numbers, uint64_t count)
        : numbers_(numbers), count_(count), first_(numbers.Begin(count)) {}
    ~Block() { numbers_.End(first_, written_ ? first_ + count_ - 1 : 0); }

    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    uint64_t first() const { return first_; }
    // The write is in the store. One that failed leaves a gap.
    void set_written() { written_ = true; }

   private:
    SequenceNumbers& numbers_;
    const uint64_t count_;
    const uint64_t first_;
    bool written_ = false;
  };

  // Goes on behind `last`, if that is higher; no write is under way.
  void RaiseTo(uint64_t last) {
    absl::MutexLock lock(&mutex_);
    next_ = std::max(next_, last + 1);
    written_ = std::max(written_, last);
  }

  // Every write up to this one has ended, and this one is in the store: after a
  // crash the numbers go on behind it.
  uint64_t last() const {
    absl::MutexLock lock(&mutex_);
    return under_way_.empty() ? written_
                              : std::min(written_, *under_way_.begin() - 1);
  }

 private:
  uint64_t Begin(uint64_t count) {
    absl::MutexLock lock(&mutex_);
    const uint64_t first = next_;
    next_ += count;
    under_way_.insert(first);
    return first;
  }

  void End(uint64_t first, uint64_t written) {
    absl::MutexLock lock(&mutex_);
    under_way_.erase(first);
    written_ = std::max(written_, written);
  }

  mutable absl::Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_);
  uint64_t written_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> under_way_ ABSL_GUARDED_BY(mutex_);  // First numbers.
};

}  // namespace quern
