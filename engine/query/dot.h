#pragma once

#include <cstddef>

#include "absl/types/span.h"

namespace quern {

// The inner product of two vectors of the same size, summed in double
// precision.
inline double Dot(absl::Span<const float> a, absl::Span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

}  // namespace quern
