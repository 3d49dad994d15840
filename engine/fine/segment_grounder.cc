#include "engine/fine/segment_grounder.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

std::vector<SegmentGrounder::Proposal> SegmentGrounder::Propose(
    absl::Span<const float> saliency) const {
  const PrefixSums sums(saliency);
  const auto mean = [&](const FrameRun& run) { return sums.Mean(run); };
  const auto contrast = [&](const FrameRun& run) { return sums.Contrast(run); };
  std::vector<Proposal> proposals;
  const auto add = [&](const std::vector<FrameRun>& runs, bool ends_are_seen) {
    for (const FrameRun& run : runs) {
      proposals.push_back({.run = run,
                           .weight = std::max(0.0, contrast(run)),
                           .ends_are_seen = ends_are_seen});
    }
  };
  const int64_t frames = video_.frames.rows;
  const std::vector<float> smooth = Smoothed(saliency);
  const double top = *std::max_element(smooth.begin(), smooth.end());
  const double middle = (MomentsOf(smooth).mean + top) / 2;
  add(GrowAnchors(saliency), true);
  add(BestOf(RunsBetween(change_points_, frames, 1), mean), true);
  add({MaxSubarray(smooth, middle)}, false);
  add(BestOf(RunsAbove(smooth, OtsuThreshold(smooth)), contrast), false);
  add(BestOf(SlidingRuns(frames, std::min(kMinWindow, frames)), contrast),
      false);
  return proposals;
}

TimeSpan SegmentGrounder::SpanOf(const FrameRun& run,
                                 double min_duration) const {
  TimeSpan span = {
      .start = video_.times[run.begin],
      .end = run.end < video_.frames.rows ? video_.times[run.end] : end_};
  const double missing = min_duration - Length(span);
  if (missing <= 0) return span;
  // Grown to both sides alike, and into the video where it ends.
  span.start = std::max(0.0, span.start - missing / 2);
  span.end = std::min(end_, span.start + min_duration);
  span.start = std::max(0.0, span.end - min_duration);
  return span;
}

GroundedMoments SegmentGrounder::Ground(absl::Span<const float> sentence,
                                        const SegmentOptions& options) const {
  GroundedMoments moments;
  moments.saliency.resize(video_.frames.rows);
  CosineMap(video_.frames, sentence, absl::MakeSpan(moments.saliency));
  const std::vector<Proposal> proposals = Propose(moments.saliency);
  std::vector<WeightedRun> voters;
  voters.reserve(proposals.size());
  for (const Proposal& proposal : proposals) {
    voters.push_back({.run = proposal.run, .weight = proposal.weight});
  }
  const std::vector<double> votes = Votes(voters);
  const double most = *std::max_element(votes.begin(), votes.end());
  const PrefixSums sums(moments.saliency);
  const ScoreMoments all = MomentsOf(moments.saliency);

  std::vector<GroundedSegment> segments;
  std::vector<Scored<TimeSpan>> spans;
  for (size_t i = 0; i < proposals.size(); ++i) {
    const FrameRun& run = proposals[i].run;
    if (!proposals[i].ends_are_seen && !change_points_.empty()) continue;
    const double mean = sums.Mean(run);
    // A vote of nothing at all (one frame, or all alike) is one for each.
    const double share = most > 0 ? votes[i] / most : 1;
    const float peak = *std::max_element(moments.saliency.begin() + run.begin,
                                         moments.saliency.begin() + run.end);
    segments.push_back(
        {.span = SpanOf(run, options.min_duration),
         .score = mean > 0 ? mean * share : mean,
         .features = {
             .peak = peak, .mean = all.mean, .deviation = all.deviation}});
    spans.push_back(
        {.where = segments.back().span, .score = segments.back().score});
  }
  for (const size_t i :
       Suppress(spans, options.nms_iou, options.max_segments)) {
    moments.segments.push_back(segments[i]);
  }
  return moments;
}

}  // namespace quern
