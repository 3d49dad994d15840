#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace quern {

// A borrowed, row-major float matrix: rows x columns.
struct MatrixView {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;

  absl::Span<const float> row(int64_t i) const {
    return {data + i * columns, static_cast<size_t>(columns)};
  }
};

// An owned, row-major float matrix: rows x columns. Not thread-safe.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), values_(rows * columns) {}
  Matrix(int64_t rows, int64_t columns, std::vector<float> values)
      : rows_(rows), columns_(columns), values_(std::move(values)) {}

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  float* data() { return values_.data(); }
  const float* data() const { return values_.data(); }

  absl::Span<float> row(int64_t i) {
    return {values_.data() + i * columns_, static_cast<size_t>(columns_)};
  }
  absl::Span<const float> row(int64_t i) const { return view().row(i); }

  MatrixView view() const { return {values_.data(), rows_, columns_}; }

 private:
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  std::vector<float> values_;
};

}  // namespace quern
