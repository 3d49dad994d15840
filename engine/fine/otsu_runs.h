#pragma once

#include <vector>

#include "absl/types/span.h"

#include "engine/fine/frame_run.h"

namespace quern {

// The threshold that parts `scores` into two classes with the greatest variance
// between them (Otsu, "A threshold selection method from gray-level
// histograms", 1979, equation 14), over the scores themselves instead of a
// histogram: a score of the upper class is greater than it. `scores` is not
// empty; when all are equal the threshold is their value, and no score is
// above.
float OtsuThreshold(absl::Span<const float> scores);

// The runs of frames above `threshold`, in order.
std::vector<FrameRun> RunsAbove(absl::Span<const float> scores,
                                double threshold);

}  // namespace quern
