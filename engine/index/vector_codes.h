#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/index/binary_codes.h"
#include "engine/index/error_bound.h"
#include "engine/index/kernels.h"
#include "engine/index/vector_index.h"

namespace quern {

// Writes a vector, checked by CheckedNorm() and normalised for kCosine, to as
// many values. Errors: those of CheckedNorm(), with nothing written.
absl::Status PrepareVector(absl::Span<const float> vector, Metric metric,
                           float* prepared);

// A copy of `vectors`, [rows x columns], checked by CheckedNorm(), and
// normalised for kCosine. `name` is the field that the rows are called after.
absl::StatusOr<Matrix> PrepareVectors(MatrixView vectors, Metric metric,
                                      absl::string_view name);

// Writes RowBytes() bytes to `row`. kInt8 rounds to 127 steps of the largest
// value, kFp16 keeps 11 bits of each value relative to the largest.
void EncodeRow(VectorStorage storage, absl::Span<const float> vector,
               uint8_t* row, CodeScale* scale);

// What EncodeRow() kept.
void DecodeRow(const CodeRows& rows, size_t row, absl::Span<float> vector);

// One query in all forms. Movable.
class EncodedQuery {
 public:
  explicit EncodedQuery(absl::Span<const float> vector);

  const QueryCodes& codes() const { return codes_; }
  absl::Span<const float> vector() const {
    return {values_.data(), static_cast<size_t>(dimension_)};
  }
  int64_t dimension() const { return dimension_; }
  float norm() const { return norm_; }

  // The form for binary codes, which takes longer to make than the others and
  // is there once it was asked for.
  void AddBinary(const BinaryCoder& coder) { binary_.emplace(coder, vector()); }
  const std::optional<BinaryQuery>& binary() const { return binary_; }

  // By how much the score of a row can differ from that of its vector: by so
  // many standard deviations, with errors of the values taken as independent;
  // with infinitely many (the default) never by more. `unit_norm`: the vectors
  // have norm 1.
  float ErrorBound(const CodeRows& rows, size_t row, bool unit_norm,
                   float sigmas = ErrorSigmas(1)) const;

 private:
  int64_t dimension_;
  std::vector<float> values_;     // Padded with zeros to 64 values.
  std::vector<int8_t> integers_;  // Likewise.
  float norm_ = 0;
  float integer_error_ = 0;  // Norm of what `integers_` have lost.
  float deviation_ = 1;      // Of the bound that is never exceeded.
  QueryCodes codes_;
  std::optional<BinaryQuery> binary_;
};

// A stored row as a query for the rows of the same codes. Not thread-safe.
class RowQuery {
 public:
  explicit RowQuery(const CodeRows& rows) : rows_(rows) {}

  void Load(uint32_t row);
  const QueryCodes& codes() const { return codes_; }

 private:
  const CodeRows rows_;
  int64_t row_ = -1;
  std::vector<float> values_;
  std::vector<int8_t> integers_;
  QueryCodes codes_;
};

}  // namespace quern
