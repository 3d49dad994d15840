#include "engine/fine/max_subarray.h"

#include <algorithm>

namespace quern {

FrameRun MaxSubarray(absl::Span<const float> scores, double threshold) {
  const int64_t best_frame =
      std::max_element(scores.begin(), scores.end()) - scores.begin();
  FrameRun best = {.begin = best_frame, .end = best_frame + 1};
  double best_sum = 0;
  double sum = 0;
  int64_t begin = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(scores.size()); ++i) {
    if (sum <= 0) {
      sum = 0;
      begin = i;
    }
    sum += scores[i] - threshold;
    if (sum > best_sum) {
      best_sum = sum;
      best = {.begin = begin, .end = i + 1};
    }
  }
  return best;
}

}  // namespace quern
