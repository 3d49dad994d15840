#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/index/binary_codes.h"
#include "engine/index/kernels.h"

namespace quern {

// The newest rows of a shard: FP32, as they came, and binary codes, which tell
// the few that are worth comparing. One writer at a time appends; readers look
// only at rows whose number they were told after they had been appended, so
// they need no lock.
class Delta {
 public:
  static constexpr int64_t kChunkRows = 512;
  static constexpr int64_t kMaxRows = 64 * kChunkRows;

  // `coder` is of the dimension. `sequence`: what came before it is elsewhere.
  Delta(int64_t dimension, std::shared_ptr<const BinaryCoder> coder,
        uint64_t sequence)
      : dimension_(dimension),
        row_bytes_(RowBytes(VectorStorage::kFp32, dimension)),
        coder_(std::move(coder)),
        sequence_(sequence) {}

  uint64_t sequence() const { return sequence_; }

  // The writer's: rows so far, below kMaxRows for Append().
  int64_t rows() const { return rows_; }
  void Append(absl::string_view id, uint32_t row_number,
              absl::Span<const float> vector);
  // The writer's: the last of the first `rows` rows that is of `id`, if any is.
  std::optional<uint32_t> Find(absl::string_view id, int64_t rows) const;

  absl::string_view id(int64_t row) const {
    return chunk(row).ids[row % kChunkRows];
  }
  uint32_t row_number(int64_t row) const {
    return chunk(row).row_numbers[row % kChunkRows];
  }
  absl::Span<const float> vector(int64_t row) const {
    const CodeRows rows = chunk_rows(row / kChunkRows);
    return {reinterpret_cast<const float*>(rows.row(row % kChunkRows)),
            static_cast<size_t>(dimension_)};
  }
  // Rows i * kChunkRows and following.
  CodeRows chunk_rows(int64_t i) const {
    return {.storage = VectorStorage::kFp32,
            .row_bytes = row_bytes_,
            .codes = chunks_[i]->codes};
  }

  // The same rows' codes, of blocks that are full.
  BinaryRows binary_rows(int64_t i) const {
    return {.block_bytes = coder_->block_bytes(), .blocks = chunks_[i]->blocks};
  }

  // For so many rows.
  int64_t memory_bytes(int64_t rows) const;

 private:
  static constexpr int64_t kBlockRows = kBinaryBlockRows;
  static constexpr int64_t kChunkBlocks = kChunkRows / kBlockRows;

  struct Chunk {
    ~Chunk();
    uint8_t* codes = nullptr;
    uint8_t* blocks = nullptr;  // Of binary codes, behind them.
    std::array<std::string, kChunkRows> ids;
    std::array<uint32_t, kChunkRows> row_numbers;
  };

  void EncodeBlock(int64_t first);
  const Chunk& chunk(int64_t row) const { return *chunks_[row / kChunkRows]; }

  const int64_t dimension_;
  const size_t row_bytes_;
  const std::shared_ptr<const BinaryCoder> coder_;
  const uint64_t sequence_;
  std::array<std::unique_ptr<Chunk>, kMaxRows / kChunkRows> chunks_;
  int64_t rows_ = 0;
  absl::flat_hash_map<absl::string_view, uint32_t> last_row_;  // The writer's.
};

}  // namespace quern
