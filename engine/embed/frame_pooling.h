#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"

// One vector for a video out of those of its frames. `frames` has unit rows;
// `samples` says at how many sampled times each is shown, and has as many
// values. Results have length one. Errors: kInvalidArgument when the frames
// cancel out.

namespace quern {

// The mean: what the video shows, whoever asks.
absl::StatusOr<std::vector<float>> PoolFrames(
    const MatrixView& frames, absl::Span<const int64_t> samples);

// The mean weighted by softmax(cosine(frame, query) / temperature): what of it
// the query is about (Bain et al., "A CLIP-Hitchhiker's Guide to Long Video
// Retrieval", 2022, query-scoring). `query` has the frames' dimension and
// length one; `temperature` > 0: small ones take the best frame, large ones the
// mean.
inline constexpr double kFrameTemperature = 0.1;
absl::StatusOr<std::vector<float>> PoolFramesForQuery(
    const MatrixView& frames, absl::Span<const int64_t> samples,
    absl::Span<const float> query, double temperature = kFrameTemperature);

}  // namespace quern
