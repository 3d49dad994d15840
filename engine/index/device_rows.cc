#include "engine/index/device_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "faiss/IndexFlat.h"
#include "faiss/IndexIVFFlat.h"
#include "faiss/IndexScalarQuantizer.h"
#include <omp.h>

#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/index/vector_codes.h"

namespace quern {
namespace {

using idx_t = faiss::Index::idx_t;

constexpr absl::string_view kLibrary = "FAISS";
constexpr int64_t kStagedRows = 4096;  // At once.
// FAISS's kernels pad each list to a whole number of warps.
constexpr int64_t kListRows = 32;
constexpr int64_t kIdBytes = 4;

std::unique_ptr<faiss::IndexIVF> EmptyLists(const DeviceShape& shape,
                                            const Matrix& centres) {
  auto quantizer = std::make_unique<faiss::IndexFlatIP>(shape.dimension);
  quantizer->add(centres.rows(), centres.data());
  std::unique_ptr<faiss::IndexIVF> lists;
  if (shape.storage == VectorStorage::kFp32) {
    lists = std::make_unique<faiss::IndexIVFFlat>(quantizer.get(),
                                                  shape.dimension, shape.lists,
                                                  faiss::METRIC_INNER_PRODUCT);
  } else {
    auto halves = std::make_unique<faiss::IndexIVFScalarQuantizer>(
        quantizer.get(), shape.dimension, shape.lists,
        faiss::ScalarQuantizer::QT_fp16, faiss::METRIC_INNER_PRODUCT,
        /*encode_residual=*/false);
    lists = std::move(halves);
  }
  quantizer.release();  // NOLINT(bugprone-unused-return-value)
  lists->own_fields = true;
  lists->is_trained = true;
  return lists;
}

// Calls `take(first, count, values)` for all rows in order, divided by `norm`.
template <typename Take>
void ReadRows(const Segment& segment, float norm, const Take& take) {
  const auto dimension = static_cast<int64_t>(segment.header().dimension);
  std::vector<float> values(kStagedRows * dimension);
  for (int64_t first = 0; first < segment.rows(); first += kStagedRows) {
    const int64_t count = std::min(kStagedRows, segment.rows() - first);
    for (int64_t i = 0; i < count; ++i) {
      DecodeRow(
          segment.codes(), first + i,
          {values.data() + i * dimension, static_cast<size_t>(dimension)});
    }
    for (float& value : values) value /= norm;
    take(first, count, values.data());
  }
}

float LargestNorm(const Segment& segment) {
  const auto dimension = static_cast<int64_t>(segment.header().dimension);
  double largest = 0;
  ReadRows(segment, 1, [&](int64_t, int64_t count, const float* values) {
    for (int64_t i = 0; i < count; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < dimension; ++j) {
        const double value = values[i * dimension + j];
        squares += value * value;
      }
      largest = std::max(largest, squares);
    }
  });
  return largest > 0 ? static_cast<float>(std::sqrt(largest)) : 1;
}

CodeScale WorstScale(const Segment& segment) {
  CodeScale worst{.scale = 0};
  if (segment.codes().scales == nullptr) return worst;
  for (int64_t i = 0; i < segment.rows(); ++i) {
    const CodeScale& scale = segment.codes().scales[i];
    worst.scale = std::max(worst.scale, scale.scale);
    worst.error = std::max(worst.error, scale.error);
  }
  return worst;
}

}  // namespace

int64_t DeviceBytes(const DeviceShape& shape) {
  const int64_t value_bytes = shape.storage == VectorStorage::kFp32 ? 4 : 2;
  const int64_t row_bytes = shape.dimension * value_bytes;
  if (shape.lists == 0) {
    // FAISS keeps each row's norm, too.
    return shape.rows * (row_bytes + static_cast<int64_t>(sizeof(float)));
  }
  const int64_t centre_bytes =
      shape.dimension * static_cast<int64_t>(sizeof(float));
  return (shape.rows + shape.lists * kListRows) * (row_bytes + kIdBytes) +
         shape.lists * centre_bytes;
}

float DeviceScoreError(VectorStorage storage, int64_t dimension) {
  const auto values = static_cast<float>(dimension);
  const float of_sums = std::ldexp(2 * values + 8, -24);
  if (storage == VectorStorage::kFp32) return of_sums;
  const float of_values =
      std::ldexp(1.0F, -11) + std::ldexp(std::sqrt(values), -25);
  return of_values * (2 + of_values) + of_sums;
}

DeviceShape ShapeOf(const Segment& segment, VectorStorage storage) {
  return {.storage = storage,
          .rows = segment.rows(),
          .dimension = static_cast<int64_t>(segment.header().dimension),
          .lists = segment.ivf() == nullptr ? 0 : segment.ivf()->lists()};
}

absl::StatusOr<DeviceRows> StageRows(const Segment& segment,
                                     VectorStorage storage) {
  return Guard(kLibrary, [&]() -> absl::StatusOr<DeviceRows> {
    omp_set_num_threads(1);
    DeviceRows staged{.shape = ShapeOf(segment, storage),
                      .norm = LargestNorm(segment),
                      .worst_scale = WorstScale(segment)};
    if (segment.ivf() == nullptr) {
      auto flat = std::make_shared<faiss::IndexFlatIP>(staged.shape.dimension);
      ReadRows(segment, staged.norm,
               [&](int64_t, int64_t count, const float* values) {
                 flat->add(count, values);
               });
      staged.index = std::move(flat);
      return staged;
    }
    Matrix centres;
    std::vector<uint32_t> list_of;
    segment.ivf()->CopyLists(&centres, &list_of);
    const std::shared_ptr<faiss::IndexIVF> lists =
        EmptyLists(staged.shape, centres);
    ReadRows(segment, staged.norm,
             [&](int64_t first, int64_t count, const float* values) {
               const std::vector<idx_t> assigned(
                   list_of.begin() + first, list_of.begin() + first + count);
               lists->add_core(count, values, nullptr, assigned.data());
             });
    staged.index = lists;
    return staged;
  });
}

}  // namespace quern
