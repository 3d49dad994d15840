#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/index/vector_index.h"

namespace quern {

// The Euclidean norm of a vector that can be stored and compared under
// `metric`. Errors: kInvalidArgument, with no field path, for NaN or infinity
// (naming the position), for a norm above 1e19 (inner products would overflow),
// and under kCosine for all zeros.
absl::StatusOr<double> CheckedNorm(absl::Span<const float> vector,
                                   Metric metric);

}  // namespace quern
