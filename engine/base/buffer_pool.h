#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quern {

// Buffers of floats that go from hand to hand, so that steady work allocates
// none. Thread-safe.
class BufferPool {
 public:
  // Keeps `max_buffers` at most while nobody uses them.
  explicit BufferPool(size_t max_buffers) : max_buffers_(max_buffers) {}

  // A buffer of `size` values; what they are is not said.
  std::vector<float> Take(size_t size) {
    std::vector<float> buffer;
    {
      absl::MutexLock lock(&mutex_);
      if (!buffers_.empty()) {
        buffer = std::move(buffers_.back());
        buffers_.pop_back();
      }
    }
    buffer.resize(size);
    return buffer;
  }

  void Give(std::vector<float> buffer) {
    absl::MutexLock lock(&mutex_);
    if (buffers_.size() < max_buffers_) buffers_.push_back(std::move(buffer));
  }

 private:
  const size_t max_buffers_;
  absl::Mutex mutex_;
  std::vector<std::vector<float>> buffers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
