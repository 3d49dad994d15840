#pragma once

#include "absl/types/span.h"

#include "engine/fine/frame_run.h"

namespace quern {

// The run whose scores add up to most when `threshold` is taken off each
// (Kadane's scan; Bentley, "Programming pearls: algorithm design techniques",
// 1984). `scores` is not empty. Without a frame above the threshold it is the
// best frame alone. Of equal runs the first.
FrameRun MaxSubarray(absl::Span<const float> scores, double threshold);

}  // namespace quern
