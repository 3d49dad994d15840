#include "engine/fine/anchor_expansion.h"

#include <algorithm>
#include <limits>

namespace quern {
namespace {

double Threshold(absl::Span<const float> similarity, int64_t anchor) {
  double sum = 0;
  float nearest = std::numeric_limits<float>::lowest();
  for (int64_t i = 0; i < static_cast<int64_t>(similarity.size()); ++i) {
    sum += similarity[i];
    if (i != anchor) nearest = std::max(nearest, similarity[i]);
  }
  return (sum / static_cast<double>(similarity.size()) + nearest) / 2;
}

}  // namespace

FrameRun ExpandAnchor(absl::Span<const float> similarity, int64_t anchor) {
  const double threshold = Threshold(similarity, anchor);
  FrameRun run = {.begin = anchor, .end = anchor + 1};
  while (run.begin > 0 && similarity[run.begin - 1] > threshold) --run.begin;
  const auto frames = static_cast<int64_t>(similarity.size());
  while (run.end < frames && similarity[run.end] > threshold) ++run.end;
  return run;
}

}  // namespace quern
