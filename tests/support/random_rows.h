#pragma once

#include <cmath>
#include <cstdint>
#include <random>

#include "absl/types/span.h"

#include "engine/base/matrix.h"

namespace quern {

// Numbers of the standard normal distribution; equal seeds give equal rows.
inline Matrix RandomRows(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value;
  Matrix matrix(rows, columns);
  for (int64_t i = 0; i < rows * columns; ++i) matrix.data()[i] = value(random);
  return matrix;
}

// In double precision.
inline double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  double product = 0, a_squares = 0, b_squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * b[i];
    a_squares += double{a[i]} * a[i];
    b_squares += double{b[i]} * b[i];
  }
  return product / std::sqrt(a_squares * b_squares);
}

}  // namespace quern
