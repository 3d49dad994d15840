#include "engine/fine/otsu_runs.h"

#include <algorithm>
#include <numeric>

namespace quern {

float OtsuThreshold(absl::Span<const float> scores) {
  std::vector<float> sorted(scores.begin(), scores.end());
  std::sort(sorted.begin(), sorted.end());
  const double total = std::accumulate(sorted.begin(), sorted.end(), 0.0);
  const auto count = static_cast<double>(sorted.size());
  float threshold = sorted.back();
  double best = 0;
  double below = 0;
  for (size_t i = 0; i + 1 < sorted.size(); ++i) {
    below += sorted[i];
    if (sorted[i] == sorted[i + 1]) continue;
    const auto low = static_cast<double>(i + 1);
    const double high = count - low;
    const double difference = (total - below) / high - below / low;
    const double between = low * high * difference * difference;
    if (between > best) {
      best = between;
      threshold = sorted[i];
    }
  }
  return threshold;
}

std::vector<FrameRun> RunsAbove(absl::Span<const float> scores,
                                double threshold) {
  std::vector<FrameRun> runs;
  bool is_open = false;
  for (int64_t i = 0; i < static_cast<int64_t>(scores.size()); ++i) {
    const bool is_above = scores[i] > threshold;
    if (is_above && is_open) {
      runs.back().end = i + 1;
    } else if (is_above) {
      runs.push_back({.begin = i, .end = i + 1});
    }
    is_open = is_above;
  }
  return runs;
}

}  // namespace quern
