#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace quern {

// Bytes in pages of their own, zero at first, page aligned; large ones lie in
// huge pages where the kernel gives them, which makes random access cheaper,
// taken in turns from the NUMA nodes that the process may use: wherever a
// search's threads run, it has the bandwidth of all of them.
// Pages that are never written take no memory. Not thread-safe.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  // Errors: kResourceExhausted.
  static absl::StatusOr<HugeBuffer> Create(size_t bytes);
  ~HugeBuffer();

  HugeBuffer(HugeBuffer&& other) noexcept;
  HugeBuffer& operator=(HugeBuffer&& other) noexcept;

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  // Gives back what lies behind the first `bytes`.
  void Shrink(size_t bytes);

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;
};

}  // namespace quern
