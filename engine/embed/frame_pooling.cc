#include "engine/embed/frame_pooling.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"

namespace quern {
namespace {

absl::StatusOr<std::vector<float>> WeightedDirection(
    const MatrixView& frames, absl::Span<const double> weights) {
  std::vector<double> sum(frames.columns);
  for (int64_t i = 0; i < frames.rows; ++i) {
    for (int64_t j = 0; j < frames.columns; ++j) {
      sum[j] += weights[i] * frames.row(i)[j];
    }
  }
  double squares = 0;
  for (const double value : sum) squares += value * value;
  const double norm = std::sqrt(squares);
  if (!(norm > 0)) {
    return absl::InvalidArgumentError("its frames' embeddings cancel out");
  }
  std::vector<float> direction(frames.columns);
  for (int64_t j = 0; j < frames.columns; ++j) {
    direction[j] = static_cast<float>(sum[j] / norm);
  }
  return direction;
}

}  // namespace

absl::StatusOr<std::vector<float>> PoolFrames(
    const MatrixView& frames, absl::Span<const int64_t> samples) {
  return WeightedDirection(frames,
                           std::vector<double>(samples.begin(), samples.end()));
}

absl::StatusOr<std::vector<float>> PoolFramesForQuery(
    const MatrixView& frames, absl::Span<const int64_t> samples,
    absl::Span<const float> query, double temperature) {
  std::vector<double> cosines(frames.rows);
  for (int64_t i = 0; i < frames.rows; ++i) {
    for (int64_t j = 0; j < frames.columns; ++j) {
      cosines[i] += double{frames.row(i)[j]} * query[j];
    }
  }
  const double best =
      frames.rows == 0 ? 0 : *std::max_element(cosines.begin(), cosines.end());
  std::vector<double> weights(frames.rows);
  for (int64_t i = 0; i < frames.rows; ++i) {
    weights[i] = static_cast<double>(samples[i]) *
                 std::exp((cosines[i] - best) / temperature);
  }
  return WeightedDirection(frames, weights);
}

}  // namespace quern
