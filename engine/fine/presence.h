#pragma once

#include <optional>

namespace quern {

// What a map of scores (over a picture's cells, or a video's frames) says of
// whether a text's thing is in it, and in one box or span of it.
struct PresenceFeatures {
  double peak = 0;       // Best score within the box or span.
  double mean = 0;       // Of the whole map.
  double deviation = 0;  // Of the whole map.
  double best = 0;       // Best score of the whole map.
  double inside = 0;     // Mean score within the box or span.
  // Cosine of the text with the mean of the box's cells or the span's frames,
  // each of length one.
  double pooled = 0;
};

// A logistic regression on them, fitted on data and stored in the model's
// package (Platt, "Probabilistic outputs for support vector machines", 1999).
struct PresenceCalibration {
  double bias = 0;
  double peak = 0;
  double mean = 0;
  double deviation = 0;
  double best = 0;
  double inside = 0;
  double pooled = 0;
  // Below this probability a result is left out where the caller does not say,
  // in [0, 1].
  double threshold = 0.5;

  // In [0, 1].
  double Probability(const PresenceFeatures& features) const;
};

// That what a grounder found is what was asked for, in [0, 1]: as whoever found
// it says, or else the calibration; null where neither does.
template <typename Found>
std::optional<double> ProbabilityOf(
    const Found& found, const std::optional<PresenceCalibration>& calibration) {
  if constexpr (requires { found.probability; }) {
    if (found.probability.has_value()) return found.probability;
  }
  if (!calibration.has_value()) return std::nullopt;
  return calibration->Probability(found.features);
}

}  // namespace quern
