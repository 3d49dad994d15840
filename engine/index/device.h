#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "engine/base/matrix.h"
#include "engine/index/kernels.h"

namespace faiss {
struct Index;
}  // namespace faiss

// The seam to a device that compares vectors beside the processor, such as a
// GPU. What it scores only chooses rows: device_search.h has the processor
// compare those again, so that scores are the same wherever a segment lies.

namespace quern {

// Results per query, and lists per search, of FAISS's kernels on a GPU.
inline constexpr int64_t kMaxDeviceResults = 2047;
inline constexpr int64_t kMaxDeviceLists = 2047;

// What a device is to hold, as far as its size goes.
struct DeviceShape {
  VectorStorage storage = VectorStorage::kFp16;  // Or kFp32.
  int64_t rows = 0;
  int64_t dimension = 0;
  int64_t lists = 0;  // Inverted lists; 0: a search compares every row.
};

// Bytes of a device that rows take.
int64_t DeviceBytes(const DeviceShape& shape);

// By how much the inner product of two vectors of norm at most 1 may be off
// when both are kept as `storage` and products are summed in FP32: a half is
// off by 2^-11 of its value or by 2^-25, a sum by 2^-24 of itself. Twice the
// sums: those of the processor, which it is compared with, are off, too.
float DeviceScoreError(VectorStorage storage, int64_t dimension);

// What a search finds: [queries x k], best first. Row -1: there are no more.
struct DeviceHits {
  std::vector<float> scores;
  std::vector<int64_t> rows;
};

// Rows on a device. Only its device's one thread may touch it.
class DeviceIndex {
 public:
  virtual ~DeviceIndex() = default;

  // The k rows of the largest inner products with each query, of norm at most
  // 1, in its `lists` nearest lists; 0: there are none. k is 1 to
  // kMaxDeviceResults, `lists` at most kMaxDeviceLists. Scores are off by at
  // most DeviceScoreError().
  // Errors: kResourceExhausted: its memory did not last, a smaller search may
  // pass; anything else: the device is not to be used any more.
  virtual absl::StatusOr<DeviceHits> Search(MatrixView queries, int64_t k,
                                            int64_t lists) = 0;
};

// Only one thread, always the same, may touch it. It outlives its indexes.
class Device {
 public:
  virtual ~Device() = default;

  // Bytes of its memory that are free now.
  virtual absl::StatusOr<int64_t> FreeBytes() = 0;
  // Bytes that it takes for searches, whatever it holds.
  virtual int64_t scratch_bytes() const = 0;
  // A copy of `rows` (an IndexFlatIP, or by inner product an IndexIVFFlat or an
  // IndexIVFScalarQuantizer of halves) that keeps vectors as `storage`; norms
  // are at most 1. Errors: as of DeviceIndex::Search().
  virtual absl::StatusOr<std::unique_ptr<DeviceIndex>> Load(
      const faiss::Index& rows, VectorStorage storage) = 0;
};

}  // namespace quern
