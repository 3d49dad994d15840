#include "engine/index/vector_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/index/check_vector.h"
#include "engine/index/error_bound.h"

namespace quern {
namespace {

constexpr float kSteps = 127;
constexpr size_t kPaddedValues = 64;

float LargestValue(absl::Span<const float> vector) {
  float largest = 0;
  for (const float value : vector) {
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

// The nearest integer, at most 127 either way: rounding up the scale's inverse
// could exceed it.
int32_t Step(float value, float inverse_scale) {
  return static_cast<int32_t>(
      std::lround(std::clamp(value * inverse_scale, -kSteps, kSteps)));
}

}  // namespace

absl::Status PrepareVector(absl::Span<const float> vector, Metric metric,
                           float* prepared) {
  QUERN_ASSIGN_OR_RETURN(const double norm, CheckedNorm(vector, metric));
  const double scale = metric == Metric::kCosine ? 1 / norm : 1;
  for (size_t i = 0; i < vector.size(); ++i) {
    prepared[i] = static_cast<float>(vector[i] * scale);
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> PrepareVectors(MatrixView vectors, Metric metric,
                                      absl::string_view name) {
  Matrix prepared(vectors.rows, vectors.columns);
  for (int64_t i = 0; i < vectors.rows; ++i) {
    const absl::Status status =
        PrepareVector(vectors.row(i), metric, prepared.row(i).data());
    if (!status.ok()) {
      return InvalidField(absl::StrCat(name, "[", i, "]"), status.message());
    }
  }
  return prepared;
}

void EncodeRow(VectorStorage storage, absl::Span<const float> vector,
               uint8_t* row, CodeScale* scale) {
  const size_t row_bytes =
      RowBytes(storage, static_cast<int64_t>(vector.size()));
  if (storage == VectorStorage::kFp32) {
    std::memset(row, 0, row_bytes);
    std::memcpy(row, vector.data(), vector.size() * sizeof(float));
    return;
  }
  const float largest = LargestValue(vector);
  double lost = 0;
  const auto lose = [&lost](float value, float kept) {
    lost += static_cast<double>(value - kept) * (value - kept);
  };
  if (storage == VectorStorage::kFp16) {
    std::memset(row, 0, row_bytes);
    scale->scale = largest > 0 ? largest : 1;
    for (size_t i = 0; i < vector.size(); ++i) {
      const uint16_t half = ToHalf(vector[i] / scale->scale);
      std::memcpy(row + i * sizeof(half), &half, sizeof(half));
      lose(vector[i], scale->scale * FromHalf(half));
    }
  } else {
    std::memset(row, 128, row_bytes);
    scale->scale = largest > 0 ? largest / kSteps : 1;
    const float inverse = 1 / scale->scale;
    for (size_t i = 0; i < vector.size(); ++i) {
      const int32_t step = Step(vector[i], inverse);
      row[i] = static_cast<uint8_t>(step + 128);
      lose(vector[i], scale->scale * static_cast<float>(step));
    }
  }
  scale->error = static_cast<float>(std::sqrt(lost));
}

void DecodeRow(const CodeRows& rows, size_t row, absl::Span<float> vector) {
  const uint8_t* codes = rows.row(row);
  switch (rows.storage) {
    case VectorStorage::kFp32:
      std::memcpy(vector.data(), codes, vector.size() * sizeof(float));
      return;
    case VectorStorage::kFp16:
      for (size_t i = 0; i < vector.size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, codes + i * sizeof(half), sizeof(half));
        vector[i] = rows.scales[row].scale * FromHalf(half);
      }
      return;
    case VectorStorage::kInt8:
      for (size_t i = 0; i < vector.size(); ++i) {
        vector[i] = rows.scales[row].scale * static_cast<float>(codes[i] - 128);
      }
      return;
  }
}

EncodedQuery::EncodedQuery(absl::Span<const float> vector)
    : dimension_(static_cast<int64_t>(vector.size())),
      values_((vector.size() + kPaddedValues - 1) / kPaddedValues *
              kPaddedValues),
      integers_(values_.size()),
      deviation_(1 / std::sqrt(static_cast<float>(
                         std::max<size_t>(vector.size(), 1)))) {
  std::copy(vector.begin(), vector.end(), values_.begin());
  norm_ =
      static_cast<float>(std::sqrt(SquaredNorm(vector.data(), vector.size())));
  const float largest = LargestMagnitude(values_.data(), values_.size());
  // Smaller ones all round to 0.
  codes_.scale = largest > kSteps * std::numeric_limits<float>::min()
                     ? largest / kSteps
                     : 1;
  const QuantizedSums sums =
      Quantize(values_.data(), values_.size(), codes_.scale, integers_.data());
  codes_.offset = 128 * sums.steps;
  integer_error_ = sums.error;
  // The heap blocks of moved vectors stay where they are.
  codes_.values = values_.data();
  codes_.integers = integers_.data();
}

void RowQuery::Load(uint32_t row) {
  if (row_ == row) return;
  row_ = row;
  const uint8_t* codes = rows_.row(row);
  switch (rows_.storage) {
    case VectorStorage::kFp32:
      codes_.values = reinterpret_cast<const float*>(codes);
      return;
    case VectorStorage::kFp16:
      values_.resize(rows_.row_bytes / 2);
      FromHalves(codes, values_.size(), rows_.scales[row].scale,
                 values_.data());
      codes_.values = values_.data();
      return;
    case VectorStorage::kInt8:
      integers_.resize(rows_.row_bytes);
      int32_t sum = 0;
      for (size_t i = 0; i < integers_.size(); ++i) {
        integers_[i] = static_cast<int8_t>(codes[i] ^ 0x80);
        sum += integers_[i];
      }
      codes_.offset = 128 * sum;
      codes_.scale = rows_.scales[row].scale;
      codes_.integers = integers_.data();
      return;
  }
}

float EncodedQuery::ErrorBound(const CodeRows& rows, size_t row, bool unit_norm,
                               float sigmas) const {
  if (rows.storage == VectorStorage::kFp32) return 0;
  const CodeScale& scale = rows.scales[row];
  const float norm =
      unit_norm
          ? 1
          : scale.scale * (rows.storage == VectorStorage::kInt8 ? kSteps : 1) *
                std::sqrt(static_cast<float>(dimension_));
  float bound = norm_ * scale.error;
  if (rows.storage == VectorStorage::kInt8) {
    bound += integer_error_ * (norm + scale.error);
  }
  return bound * std::min(1.0F, sigmas * deviation_) +
         kRoundingError * norm_ * norm;
}

}  // namespace quern
