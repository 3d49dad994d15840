#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/fine/evidence.h"
#include "engine/fine/frame_run.h"
#include "engine/fine/presence.h"

namespace quern {

// A video's frames, borrowed.
struct FramesView {
  MatrixView frames;  // Unit rows, one per frame; at least one.
  // When each frame appears, in seconds from the first one; rising.
  absl::Span<const double> times;
  double duration = 0;  // Seconds; where it is before the last frame, that.
};

struct SegmentOptions {
  int64_t max_segments = 5;   // >= 1.
  double nms_iou = 0.5;       // (0, 1].
  double min_duration = 1.0;  // Seconds; shorter spans are grown; >= 0.
};

// A span in which a sentence's moment may be.
struct GroundedSegment {
  TimeSpan span;
  double score = 0;  // Higher is better; comparable within one video.
  PresenceFeatures features;
  // Where whoever found it knows it, in [0, 1]; null: it is for a calibration
  // to say.
  std::optional<double> probability = std::nullopt;
};

// `span` in a video of `end` seconds, made `min_duration` seconds long or as
// long as the video if it is shorter: to both sides alike, and into the video
// where that ends.
TimeSpan Grown(TimeSpan span, double min_duration, double end);

struct GroundedMoments {
  std::vector<GroundedSegment> segments;  // Best first; never empty.
  std::vector<float> saliency;            // Cosine of each frame.
};

// Finds sentences in one video. Thread-safe once made; the frames must outlive
// it.
//
// Where the picture has change points (change_points.h), results are its parts
// between them, and runs of whole parts round the best frames over frames that
// look alike (anchor_expansion.h), or such a run itself if it is far better
// than the parts that it lies in; a result's score is the mean cosine of its
// frames. Where it has none, proposals are such runs as they are, the run of
// greatest sum above the middle of the mean and the best (max_subarray.h),
// Otsu's runs (otsu_runs.h) and windows of many lengths (sliding_runs.h), the
// three best of each; they vote on each other (span_voting.h), and a result's
// score is its mean times its share of the best vote. Spans begin and end in
// the middle between two frames.
//
// Measured on videos of 3 to 6 photos or scenes with pans, zooms and
// cross-fades, 120 of them (models/media, seed 2, on which the constants were
// chosen), mAP / mIoU: 84.0 / 76.4, R1@0.7 79.6, where the part with the best
// mean is the right one in 79.7 % if the cuts are known. With votes there as
// well, and spans that end at frames, 78.0 / 73.8 / 78.5.
class SegmentGrounder {
 public:
  explicit SegmentGrounder(const FramesView& video);

  // `sentence` has length one and the frames' dimension.
  GroundedMoments Ground(absl::Span<const float> sentence,
                         const SegmentOptions& options) const;

 private:
  // The whole parts of the video that `run` lies in. Frames within
  // kNoveltyReach of a change point may be of either side.
  FrameRun WidenToParts(const FrameRun& run) const;
  std::vector<FrameRun> GrowAnchors(absl::Span<const float> saliency) const;
  std::vector<FrameRun> ProposeParts(absl::Span<const float> saliency) const;
  std::vector<FrameRun> ProposeRuns(absl::Span<const float> saliency) const;
  std::vector<double> ScoreByVotes(const std::vector<FrameRun>& runs,
                                   absl::Span<const float> saliency) const;
  // In seconds; of the frame behind the last one, the end.
  double EdgeBefore(int64_t frame) const;

  const FramesView video_;
  double end_;                          // Seconds.
  std::vector<int64_t> change_points_;  // Of the pictures, for all sentences.
};

}  // namespace quern
