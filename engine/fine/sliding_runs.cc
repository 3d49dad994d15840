#include "engine/fine/sliding_runs.h"

#include <algorithm>

namespace quern {

std::vector<FrameRun> SlidingRuns(int64_t frames, int64_t min_length) {
  std::vector<FrameRun> runs;
  const int64_t longest = frames / 2;
  for (int64_t length = min_length; length <= longest;
       length += std::max<int64_t>(1, length / 2)) {
    const int64_t step = std::max<int64_t>(1, length / 2);
    for (int64_t begin = 0; begin + length < frames; begin += step) {
      runs.push_back({.begin = begin, .end = begin + length});
    }
    runs.push_back({.begin = frames - length, .end = frames});
  }
  runs.push_back({.begin = 0, .end = frames});
  return runs;
}

}  // namespace quern
