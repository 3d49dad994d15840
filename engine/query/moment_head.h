#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/fine/segment_grounder.h"
#include "engine/model/model.h"

namespace quern {

// What the model's moments head finds, in place of SegmentGrounder: one result
// per text, its spans scored by the head's probability, those that overlap
// suppressed and short ones grown as there. `texts` are token features
// ([tokens, dimension], at least one row), of which the head reads its
// `max_moment_tokens` first. Frames beyond its `max_moment_frames` are pooled
// with their neighbours, and have their saliency in common. Errors:
// kFailedPrecondition without a head, else those of
// Encoder::PredictMoments().
absl::StatusOr<std::vector<GroundedMoments>> GroundByHead(
    const Model& model, absl::Span<const MatrixView> texts,
    const FramesView& video, const SegmentOptions& options);

}  // namespace quern
