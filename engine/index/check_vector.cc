#include "engine/index/check_vector.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

#include "engine/index/kernels.h"

namespace quern {
namespace {

// The inner product of two vectors within it is below the largest float.
constexpr double kMaxNorm = 1e19;

}  // namespace

absl::StatusOr<double> CheckedNorm(absl::Span<const float> vector,
                                   Metric metric) {
  const double sum = SquaredNorm(vector.data(), vector.size());
  if (!std::isfinite(sum)) {
    const auto bad =
        std::find_if(vector.begin(), vector.end(),
                     [](float value) { return !std::isfinite(value); });
    return absl::InvalidArgumentError(
        absl::StrCat("value ", bad - vector.begin(), " is ", *bad,
                     "; values must be finite"));
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
