#pragma once

#include "absl/types/span.h"

namespace quern::cli {

// The sum in the order in which NumPy adds a contiguous array, so that a figure
// printed to two decimals never differs from one that NumPy made: up to 7
// numbers one after the other, up to 128 in eight running sums, more by halves
// (cut at a multiple of 8).
double PairwiseSum(absl::Span<const double> values);

// PairwiseSum over the count; `values` is not empty.
double PairwiseMean(absl::Span<const double> values);

}  // namespace quern::cli
