#include "engine/index/part_chunk.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"

#include "engine/base/status_macros.h"
#include "engine/index/vector_codes.h"

namespace quern {

absl::StatusOr<std::shared_ptr<PartChunk>> PartChunk::Create(int64_t dimension,
                                                             int64_t capacity,
                                                             uint64_t number) {
  // Pages that no row was written to take no memory.
  QUERN_ASSIGN_OR_RETURN(
      HugeBuffer codes,
      HugeBuffer::Create(static_cast<size_t>(capacity) *
                         RowBytes(VectorStorage::kInt8, dimension)));
  return std::shared_ptr<PartChunk>(
      new PartChunk(dimension, capacity, number, std::move(codes)));
}

PartChunk::PartChunk(int64_t dimension, int64_t capacity, uint64_t number,
                     HugeBuffer codes)
    : capacity_(capacity),
      number_(number),
      row_bytes_(RowBytes(VectorStorage::kInt8, dimension)),
      codes_(std::move(codes)),
      scales_(std::make_unique<CodeScale[]>(capacity)) {
  entries_.reserve(capacity);
}

uint32_t PartChunk::AddEntry(absl::string_view id, uint32_t slot,
                             uint32_t rows) {
  entries_.push_back(
      {.id = std::string(id), .slot = slot, .first_row = rows_, .rows = rows});
  rows_ += rows;
  return static_cast<uint32_t>(entries_.size() - 1);
}

uint32_t PartChunk::Append(absl::string_view id, uint32_t slot,
                           MatrixView rows) {
  for (int64_t i = 0; i < rows.rows; ++i) {
    const int64_t row = rows_ + i;
    EncodeRow(VectorStorage::kInt8, rows.row(i),
              codes_.data() + row * row_bytes(), &scales_[row]);
  }
  return AddEntry(id, slot, static_cast<uint32_t>(rows.rows));
}

uint32_t PartChunk::AppendFrom(const PartChunk& from, uint32_t entry,
                               uint32_t slot) {
  const Entry& copied = from.entry(entry);
  std::memcpy(codes_.data() + rows_ * row_bytes_,
              from.codes_.data() + copied.first_row * row_bytes_,
              copied.rows * row_bytes_);
  std::copy_n(from.scales_.get() + copied.first_row, copied.rows,
              scales_.get() + rows_);
  return AddEntry(copied.id, slot, copied.rows);
}

}  // namespace quern
