#pragma once

#include <cstdint>
#include <vector>

#include "engine/fine/frame_run.h"

namespace quern {

// Windows over `frames` frames whose lengths grow from `min_length` by half
// each time, up to half of the video, half a window apart, the last of each
// length flush with the end; and the whole video (multi-scale sliding windows:
// Gao et al., "TALL: Temporal activity localization via language query", 2017,
// section 3.2). `frames` and `min_length` >= 1.
std::vector<FrameRun> SlidingRuns(int64_t frames, int64_t min_length);

}  // namespace quern
