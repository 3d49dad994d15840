#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/matrix.h"
#include "engine/fine/frame_run.h"

namespace quern {

// Where the video turns to something else: the frames, first excluded, at which
// the novelty is a local maximum and above its mean plus a standard deviation.
// The novelty of a frame is one less the cosine of the mean of the `reach`
// frames before it with that of the `reach` frames from it on, fewer at the
// ends (Foote, "Automatic audio segmentation using a measure of audio novelty",
// 2000, section 3, with means in place of the checkerboard kernel). `frames`
// has unit rows, at least one; `reach` >= 1. Rising; no query is needed.
std::vector<int64_t> ChangePoints(const MatrixView& frames, int64_t reach);

// The runs from each change point (and the start) to each later one (and the
// end), over at most `max_parts` >= 1 parts of the video.
std::vector<FrameRun> RunsBetween(const std::vector<int64_t>& change_points,
                                  int64_t frames, int64_t max_parts);

}  // namespace quern
