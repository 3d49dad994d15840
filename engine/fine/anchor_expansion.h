#pragma once

#include <cstdint>

#include "absl/types/span.h"

#include "engine/fine/frame_run.h"

namespace quern {

// Grows a run from the frame `anchor` to both sides over frames that look like
// it: whose `similarity`, the cosine of each frame with the anchor's, is above
// the middle between the mean of all and the nearest other frame's. The text
// chooses where, the pictures choose how far. (Region growing with a seed:
// Adams and Bischof, "Seeded region growing", 1994. The middle was chosen by
// measuring: on videos of photos with hard cuts it finds the ends exactly,
// where the means of medians on the two sides of a threshold find three in
// four.) `similarity` is not empty, 0 <= anchor < its size; the anchor is
// always in the run.
FrameRun ExpandAnchor(absl::Span<const float> similarity, int64_t anchor);

}  // namespace quern
