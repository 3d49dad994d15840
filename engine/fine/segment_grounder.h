#pragma once

#include <cstdint>
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
};

struct GroundedMoments {
  std::vector<GroundedSegment> segments;  // Best first; never empty.
  std::vector<float> saliency;            // Cosine of each frame.
};

// Finds sentences in one video. Thread-safe once made; the frames must outlive
// it.
//
// Proposals come from five generators: growth round the best frames over frames
// that look alike (anchor_expansion.h), the parts between change points of the
// picture (change_points.h), the run of greatest sum above the middle of the
// mean and the best (max_subarray.h), Otsu's runs (otsu_runs.h) and windows of
// many lengths (sliding_runs.h). The three best of each vote on all
// (span_voting.h). Where the picture has change points, only runs that end at
// what is seen to end are results; where it has none, all are. A result's score
// is the mean cosine of its frames times its share of the best vote.
//
// Measured on videos of 3 to 6 photos with hard cuts (n = 200), R1@0.5 /
// R1@0.7: 94.5 / 94.5, as often as the frame with the best cosine lies in the
// right photo; by all results 93.5 / 92, without votes 86 / 79.5.
class SegmentGrounder {
 public:
  explicit SegmentGrounder(const FramesView& video);

  // `sentence` has length one and the frames' dimension.
  GroundedMoments Ground(absl::Span<const float> sentence,
                         const SegmentOptions& options) const;

 private:
  struct Proposal {
    FrameRun run;
    double weight = 0;  // Contrast of the run, 0 or more.
    bool ends_are_seen = false;
  };

  std::vector<Proposal> Propose(absl::Span<const float> saliency) const;
  std::vector<FrameRun> GrowAnchors(absl::Span<const float> saliency) const;
  TimeSpan SpanOf(const FrameRun& run, double min_duration) const;

  const FramesView video_;
  double end_;                          // Seconds.
  std::vector<int64_t> change_points_;  // Of the pictures, for all sentences.
};

}  // namespace quern
