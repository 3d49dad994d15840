#pragma once

// What bounds on the errors of codes have in common.

namespace quern {

// Standard deviations that a bound allows unless it is to be sure: it is
// exceeded in less than one of a million.
inline constexpr float kErrorSigmas = 5;
// Of sums of floats, relative to the norms.
inline constexpr float kRoundingError = 2e-6F;

}  // namespace quern
