#pragma once

#include <limits>

// What bounds on the errors of codes have in common.

namespace quern {

// Standard deviations that a bound allows where so large a share of the best is
// to be found: it is exceeded by one vector of 4,300, by one of 3 million, and
// never.
inline float ErrorSigmas(float recall) {
  if (recall >= 1) return std::numeric_limits<float>::infinity();
  return recall > 0.99F ? 5 : 3.5F;
}
// Of sums of floats, relative to the norms.
inline constexpr float kRoundingError = 2e-6F;

}  // namespace quern
