#include "engine/index/check_vector.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace quern {
namespace {

// The inner product of two vectors within it is below the largest float.
constexpr double kMaxNorm = 1e19;

}  // namespace

absl::StatusOr<double> CheckedNorm(absl::Span<const float> vector,
                                   Metric metric) {
  double sum = 0;
  for (size_t i = 0; i < vector.size(); ++i) {
    if (!std::isfinite(vector[i])) {
      return absl::InvalidArgumentError(absl::StrCat(
          "value ", i, " is ", vector[i], "; values must be finite"));
    }
    sum += static_cast<double>(vector[i]) * vector[i];
  }
  const double norm = std::sqrt(sum);
  if (norm > kMaxNorm) {
    return absl::InvalidArgumentError(
        absl::StrCat("its norm is ", norm, "; it must be at most ", kMaxNorm));
  }
  if (norm == 0 && metric == Metric::kCosine) {
    return absl::InvalidArgumentError(
        "all values are zero: it has no direction to compare");
  }
  return norm;
}

}  // namespace quern
