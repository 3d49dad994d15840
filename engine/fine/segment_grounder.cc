#include "engine/fine/segment_grounder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/fine/anchor_expansion.h"
#include "engine/fine/change_points.h"
#include "engine/fine/cosine_map.h"
#include "engine/fine/max_subarray.h"
#include "engine/fine/otsu_runs.h"
#include "engine/fine/overlap.h"
#include "engine/fine/score_map.h"
#include "engine/fine/sliding_runs.h"
#include "engine/fine/span_voting.h"
#include "engine/fine/suppression.h"

namespace quern {
namespace {

constexpr int64_t kNoveltyReach = 2;  // Frames before and behind a change.
constexpr int kAnchors = 3;
constexpr size_t kVoters = 3;      // Of each generator.
constexpr int64_t kMinWindow = 2;  // Frames.
// Deviations of the saliency that a run must be better than the parts round it
// to be a result of its own.
constexpr double kSharp = 1.5;

// Each score's mean with its neighbours, the outer ones twice.
std::vector<float> Smoothed(absl::Span<const float> scores) {
  std::vector<float> smooth(scores.size());
  const size_t last = scores.size() - 1;
  for (size_t i = 0; i <= last; ++i) {
    smooth[i] = (scores[i > 0 ? i - 1 : 0] + scores[i] +
                 scores[std::min(i + 1, last)]) /
                3;
  }
  return smooth;
}

// The first kVoters of `runs`, each once, by falling `value`.
template <typename Value>
std::vector<FrameRun> BestOf(std::vector<FrameRun> runs, Value value) {
  std::stable_sort(runs.begin(), runs.end(),
                   [&](const FrameRun& a, const FrameRun& b) {
                     return value(a) > value(b);
                   });
  std::vector<FrameRun> best;
  for (const FrameRun& run : runs) {
    if (best.size() == kVoters) break;
    if (std::find(best.begin(), best.end(), run) == best.end()) {
      best.push_back(run);
    }
  }
  return best;
}

}  // namespace

TimeSpan Grown(TimeSpan span, double min_duration, double end) {
  const double missing = min_duration - Length(span);
  if (missing <= 0) return span;
  span.start = std::max(0.0, span.start - missing / 2);
  span.end = std::min(end, span.start + min_duration);
  span.start = std::max(0.0, span.end - min_duration);
  return span;
}

SegmentGrounder::SegmentGrounder(const FramesView& video)
    : video_(video),
      end_(std::max(video.duration, video.times.back())),
      change_points_(ChangePoints(video.frames, kNoveltyReach)) {}

std::vector<FrameRun> SegmentGrounder::GrowAnchors(
    absl::Span<const float> saliency) const {
  std::vector<float> left(saliency.begin(), saliency.end());
  std::vector<float> similarity(saliency.size());
  std::vector<FrameRun> runs;
  constexpr float kTaken = std::numeric_limits<float>::lowest();
  for (int i = 0; i < kAnchors; ++i) {
    const auto best = std::max_element(left.begin(), left.end());
    if (*best == kTaken) break;
    const int64_t anchor = best - left.begin();
    CosineMap(video_.frames, video_.frames.row(anchor),
              absl::MakeSpan(similarity));
    const FrameRun run = ExpandAnchor(similarity, anchor);
    std::fill(left.begin() + run.begin, left.begin() + run.end, kTaken);
    runs.push_back(run);
  }
  return runs;
}

FrameRun SegmentGrounder::WidenToParts(const FrameRun& run) const {
  const auto within = [&](int64_t tolerance) {
    FrameRun parts = {.begin = 0, .end = video_.frames.rows};
    for (const int64_t point : change_points_) {
      if (point <= run.begin + tolerance) parts.begin = point;
    }
    for (const int64_t point : change_points_) {
      if (point < run.end - tolerance || point <= parts.begin) continue;
      parts.end = point;
      break;
    }
    return parts;
  };
  const FrameRun parts = within(kNoveltyReach);
  return parts.begin < run.end && run.begin < parts.end ? parts : within(0);
}

std::vector<FrameRun> SegmentGrounder::ProposeParts(
    absl::Span<const float> saliency) const {
  const PrefixSums sums(saliency);
  const double sharp = kSharp * MomentsOf(saliency).deviation;
  std::vector<FrameRun> runs =
      RunsBetween(change_points_, video_.frames.rows, 1);
  for (const FrameRun& run : GrowAnchors(saliency)) {
    const FrameRun parts = WidenToParts(run);
    runs.push_back(parts);
    // Too short for a change point of its own.
    if (sums.Mean(run) > sums.Mean(parts) + sharp) runs.push_back(run);
  }
  return runs;
}

std::vector<FrameRun> SegmentGrounder::ProposeRuns(
    absl::Span<const float> saliency) const {
  const PrefixSums sums(saliency);
  const auto contrast = [&](const FrameRun& run) { return sums.Contrast(run); };
  std::vector<FrameRun> proposals = GrowAnchors(saliency);
  const auto add = [&](const std::vector<FrameRun>& runs) {
    proposals.insert(proposals.end(), runs.begin(), runs.end());
  };
  const int64_t frames = video_.frames.rows;
  const std::vector<float> smooth = Smoothed(saliency);
  const double top = *std::max_element(smooth.begin(), smooth.end());
  const double middle = (MomentsOf(smooth).mean + top) / 2;
  add({MaxSubarray(smooth, middle)});
  add(BestOf(RunsAbove(smooth, OtsuThreshold(smooth)), contrast));
  add(BestOf(SlidingRuns(frames, std::min(kMinWindow, frames)), contrast));
  return proposals;
}

std::vector<double> SegmentGrounder::ScoreByVotes(
    const std::vector<FrameRun>& runs, absl::Span<const float> saliency) const {
  const PrefixSums sums(saliency);
  std::vector<WeightedRun> voters;
  voters.reserve(runs.size());
  for (const FrameRun& run : runs) {
    voters.push_back({.run = run, .weight = std::max(0.0, sums.Contrast(run))});
  }
  std::vector<double> scores = Votes(voters);
  const double most = *std::max_element(scores.begin(), scores.end());
  for (size_t i = 0; i < runs.size(); ++i) {
    const double mean = sums.Mean(runs[i]);
    // A vote of nothing at all (one frame, or all alike) is one for each.
    const double share = most > 0 ? scores[i] / most : 1;
    scores[i] = mean > 0 ? mean * share : mean;
  }
  return scores;
}

double SegmentGrounder::EdgeBefore(int64_t frame) const {
  if (frame == 0) return video_.times.front();
  if (frame == video_.frames.rows) return end_;
  return (video_.times[frame - 1] + video_.times[frame]) / 2;
}

GroundedMoments SegmentGrounder::Ground(absl::Span<const float> sentence,
                                        const SegmentOptions& options) const {
  GroundedMoments moments;
  moments.saliency.resize(video_.frames.rows);
  CosineMap(video_.frames, sentence, absl::MakeSpan(moments.saliency));
  const PrefixSums sums(moments.saliency);
  const ScoreMoments all = MomentsOf(moments.saliency);
  const bool has_parts = !change_points_.empty();
  const std::vector<FrameRun> runs = has_parts ? ProposeParts(moments.saliency)
                                               : ProposeRuns(moments.saliency);
  std::vector<double> scores;
  if (has_parts) {
    for (const FrameRun& run : runs) scores.push_back(sums.Mean(run));
  } else {
    scores = ScoreByVotes(runs, moments.saliency);
  }

  const float best =
      *std::max_element(moments.saliency.begin(), moments.saliency.end());
  std::vector<GroundedSegment> segments;
  std::vector<Scored<TimeSpan>> spans;
  for (size_t i = 0; i < runs.size(); ++i) {
    const float peak =
        *std::max_element(moments.saliency.begin() + runs[i].begin,
                          moments.saliency.begin() + runs[i].end);
    segments.push_back({.span = Grown({.start = EdgeBefore(runs[i].begin),
                                       .end = EdgeBefore(runs[i].end)},
                                      options.min_duration, end_),
                        .score = scores[i],
                        .features = {.peak = peak,
                                     .mean = all.mean,
                                     .deviation = all.deviation,
                                     .best = best,
                                     .inside = sums.Mean(runs[i])}});
    spans.push_back({.where = segments.back().span, .score = scores[i]});
  }
  for (const size_t i :
       Suppress(spans, options.nms_iou, options.max_segments)) {
    moments.segments.push_back(segments[i]);
    std::vector<int64_t> rows(runs[i].size());
    std::iota(rows.begin(), rows.end(), runs[i].begin);
    moments.segments.back().features.pooled =
        PooledCosine(video_.frames, rows, sentence);
  }
  return moments;
}

}  // namespace quern
