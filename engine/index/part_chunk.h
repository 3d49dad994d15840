#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/base/matrix.h"
#include "engine/index/huge_buffer.h"
#include "engine/index/kernels.h"

namespace quern {

// The rows of some items, one item's behind the other's, in a byte a number
// (VectorStorage::kInt8). One writer at a time appends; readers look only at
// entries whose number they were told after they had been appended, so they
// need no lock.
class PartChunk {
 public:
  struct Entry {
    std::string id;
    uint32_t slot = 0;  // The item's number in the index.
    uint32_t first_row = 0;
    uint32_t rows = 0;
  };

  // Room for `capacity` rows of `dimension` numbers. `number` is its own in the
  // index. Errors: kResourceExhausted.
  static absl::StatusOr<std::shared_ptr<PartChunk>> Create(int64_t dimension,
                                                           int64_t capacity,
                                                           uint64_t number);

  uint64_t number() const { return number_; }

  // The writer's: whether an item of so many rows, at least 1, fits in.
  bool HasRoom(int64_t rows) const {
    return static_cast<int64_t>(rows_) + rows <= capacity_;
  }
  // The writer's: adds an item that fits in; returns its entry. The second
  // copies the rows of another chunk's entry.
  uint32_t Append(absl::string_view id, uint32_t slot, MatrixView rows);
  uint32_t AppendFrom(const PartChunk& from, uint32_t entry, uint32_t slot);

  const Entry& entry(uint32_t i) const { return entries_.data()[i]; }
  CodeRows codes() const {
    return {.storage = VectorStorage::kInt8,
            .row_bytes = row_bytes_,
            .codes = codes_.data(),
            .scales = scales_.get()};
  }
  // Of one row.
  int64_t row_bytes() const { return static_cast<int64_t>(row_bytes_); }

 private:
  PartChunk(int64_t dimension, int64_t capacity, uint64_t number,
            HugeBuffer codes);

  uint32_t AddEntry(absl::string_view id, uint32_t slot, uint32_t rows);

  const int64_t capacity_;
  const uint64_t number_;
  const size_t row_bytes_;
  HugeBuffer codes_;                     // [capacity x row_bytes]
  std::unique_ptr<CodeScale[]> scales_;  // [capacity]
  std::vector<Entry> entries_;  // Never grows beyond what was reserved.
  uint32_t rows_ = 0;           // The writer's.
};

}  // namespace quern
