#include "engine/index/huge_buffer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace quern {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t RoundUp(size_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// Only advice, too: containers often may not.
void Interleave(void* bytes, size_t size) {
  uint64_t nodes[16] = {};  // A bit each.
  constexpr uint64_t kBits = sizeof(nodes) * 8;
  if (syscall(SYS_get_mempolicy, nullptr, nodes, kBits, nullptr,
              MPOL_F_MEMS_ALLOWED) == 0) {
    syscall(SYS_mbind, bytes, size, MPOL_INTERLEAVE, nodes, kBits, 0);
  }
}

}  // namespace

absl::StatusOr<HugeBuffer> HugeBuffer::Create(size_t bytes) {
  HugeBuffer buffer;
  buffer.size_ = bytes;
  buffer.mapped_ = RoundUp(bytes);
  if (bytes == 0) return buffer;
  void* mapped = mmap(nullptr, buffer.mapped_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    buffer.mapped_ = 0;
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of an index"));
  }
  buffer.data_ = static_cast<uint8_t*>(mapped);
  // Only advice: without huge pages it is slower, not wrong.
  if (bytes >= kHugePageBytes) {
    madvise(mapped, buffer.mapped_, MADV_HUGEPAGE);
    Interleave(mapped, buffer.mapped_);
  }
  return buffer;
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, mapped_);
}

HugeBuffer::HugeBuffer(HugeBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

HugeBuffer& HugeBuffer::operator=(HugeBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

void HugeBuffer::Shrink(size_t bytes) {
  const size_t kept = RoundUp(bytes);
  if (kept < mapped_) munmap(data_ + kept, mapped_ - kept);
  if (kept == 0) data_ = nullptr;
  mapped_ = kept;
  size_ = bytes;
}

}  // namespace quern
