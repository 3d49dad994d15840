#include "engine/query/moment_head.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/fine/suppression.h"

namespace quern {
namespace {

// Which of `bins` the frame falls into.
int64_t BinOf(int64_t frame, int64_t frames, int64_t bins) {
  return frame * bins / frames;
}

// The frames' sums over `bins` runs of equal length: directions, for a head
// that gives its rows the length one.
Matrix Pooled(const MatrixView& frames, int64_t bins) {
  Matrix pooled(bins, frames.columns);
  for (int64_t i = 0; i < frames.rows; ++i) {
    const absl::Span<float> sum = pooled.row(BinOf(i, frames.rows, bins));
    for (int64_t j = 0; j < frames.columns; ++j) sum[j] += frames.row(i)[j];
  }
  return pooled;
}

GroundedMoments MomentsOf(const MomentPrediction& prediction,
                          const FramesView& video,
                          const SegmentOptions& options) {
  const int64_t frames = video.frames.rows;
  const auto bins = static_cast<int64_t>(prediction.saliency.size());
  GroundedMoments moments;
  for (int64_t i = 0; i < frames; ++i) {
    moments.saliency.push_back(prediction.saliency[BinOf(i, frames, bins)]);
  }
  const double end = std::max(video.duration, video.times.back());
  std::vector<GroundedSegment> segments;
  std::vector<Scored<TimeSpan>> spans;
  for (const MomentPrediction::Span& found : prediction.spans) {
    const double half = std::max(0.0F, found.width) / 2;
    const TimeSpan span = {
        .start = end * std::clamp(found.centre - half, 0.0, 1.0),
        .end = end * std::clamp(found.centre + half, 0.0, 1.0)};
    segments.push_back({.span = Grown(span, options.min_duration, end),
                        .score = found.probability,
                        .probability = found.probability});
    spans.push_back(
        {.where = segments.back().span, .score = segments.back().score});
  }
  for (const size_t i :
       Suppress(spans, options.nms_iou, options.max_segments)) {
    moments.segments.push_back(segments[i]);
  }
  return moments;
}

}  // namespace

absl::StatusOr<std::vector<GroundedMoments>> GroundByHead(
    const Model& model, absl::Span<const MatrixView> texts,
    const FramesView& video, const SegmentOptions& options) {
  QUERN_RETURN_IF_ERROR(model.Require("moments"));
  std::vector<MatrixView> cut(texts.begin(), texts.end());
  for (MatrixView& text : cut) {
    text.rows = std::min(text.rows, model.info().max_moment_tokens);
  }
  const Matrix pooled =
      Pooled(video.frames,
             std::min(video.frames.rows, model.info().max_moment_frames));
  QUERN_ASSIGN_OR_RETURN(const std::vector<MomentPrediction> predictions,
                         model.encoder().PredictMoments(cut, pooled.view()));
  std::vector<GroundedMoments> moments;
  moments.reserve(predictions.size());
  for (const MomentPrediction& prediction : predictions) {
    moments.push_back(MomentsOf(prediction, video, options));
  }
  return moments;
}

}  // namespace quern
