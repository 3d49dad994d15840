#include "engine/index/delta.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace quern {
namespace {

constexpr int64_t kMapBytesPerRow =
    64;  // A string, a slot of the map, a number.

}  // namespace

Delta::Chunk::~Chunk() {
  if (codes != nullptr) {
    ::operator delete[](codes, std::align_val_t{kCacheLineBytes});
  }
}

void Delta::Append(absl::string_view id, uint32_t row_number,
                   absl::Span<const float> vector) {
  const int64_t at = rows_ % kChunkRows;
  std::unique_ptr<Chunk>& chunk = chunks_[rows_ / kChunkRows];
  if (chunk == nullptr) {
    chunk = std::make_unique<Chunk>();
    const size_t code_bytes = kChunkRows * row_bytes_;
    const size_t bytes = code_bytes + kChunkBlocks * coder_->block_bytes();
    chunk->codes = static_cast<uint8_t*>(
        ::operator new[](bytes, std::align_val_t{kCacheLineBytes}));
    std::memset(chunk->codes, 0, bytes);
    chunk->blocks = chunk->codes + code_bytes;
  }
  std::memcpy(chunk->codes + at * row_bytes_, vector.data(),
              vector.size() * sizeof(float));
  chunk->ids[at] = std::string(id);
  chunk->row_numbers[at] = row_number;
  // The key must be the string of a live row: an older row's stays as well.
  last_row_[chunk->ids[at]] = static_cast<uint32_t>(rows_);
  ++rows_;
  if (rows_ % kBlockRows == 0) EncodeBlock(rows_ - kBlockRows);
}

// Rows of a block share bytes: it is written when all are there, so that
// readers of the first ones never see it change.
void Delta::EncodeBlock(int64_t first) {
  uint8_t* const block = chunk(first).blocks + first % kChunkRows / kBlockRows *
                                                   coder_->block_bytes();
  for (int64_t i = 0; i < kBlockRows; ++i) {
    coder_->Encode(vector(first + i), i, block);
  }
}

std::optional<uint32_t> Delta::Find(absl::string_view id, int64_t rows) const {
  const auto found = last_row_.find(id);
  if (found == last_row_.end()) return std::nullopt;
  if (found->second < rows) return found->second;
  // Only behind a write that failed.
  for (int64_t row = rows; row-- > 0;) {
    if (this->id(row) == id) return static_cast<uint32_t>(row);
  }
  return std::nullopt;
}

int64_t Delta::memory_bytes(int64_t rows) const {
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  const size_t chunk_bytes =
      kChunkRows * row_bytes_ + kChunkBlocks * coder_->block_bytes();
  return chunks * static_cast<int64_t>(chunk_bytes) + rows * kMapBytesPerRow;
}

}  // namespace quern
