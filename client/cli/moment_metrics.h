#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

// Figures of temporal grounding, pure and without files.
//
// The QVHighlights evaluation (Lei et al., "QVHighlights: Detecting Moments and
// Highlights in Videos via Natural Language Queries", NeurIPS 2021, and its
// published script) decides some things in ways of its own, all of them kept:
//   - R@1 takes the first window of the list, whatever its score; AP takes the
//     first ten of the list and only then sorts them by score.
//   - R@1 compares with the one true window that overlaps most, and divides by
//     the hull of the two windows; AP divides by their union.
//   - A length bin keeps the queries with a true window in it, and of those
//     only the true windows in it; predictions of any length stay.
//   - AP of highlights is the plain mean of the interpolated precisions, one
//     per distinct score that brings a relevant clip.

namespace quern::cli {

// In seconds; both ends may be anything finite.
struct Moment {
  double start = 0;
  double end = 0;
};

struct ScoredMoment {
  Moment moment;
  double score = 0;  // Higher is better.
};

// IoU thresholds of AP: 0.50, 0.55 ... 0.95.
inline constexpr int kIouThresholds = 10;
// The place of IoU 0.75 among them.
inline constexpr int kIou75 = 5;
// People who judged each clip.
inline constexpr int kAnnotators = 3;
// Seconds of a clip that a saliency score stands for.
inline constexpr int kClipSeconds = 2;

// Scores of one clip, from 0 (very bad) to 4 (very good).
using ClipScores = std::array<double, kAnnotators>;

// Intersection over union. 0/0, two equal moments of no length, is NaN, which
// is how the official matching takes them for a match.
double UnionIou(const Moment& a, const Moment& b);

// Intersection over the hull of both; 0 when that has no length. Differs from
// UnionIou only for moments that do not overlap or run backwards.
double HullIou(const Moment& a, const Moment& b);

// Average precision of one query at each threshold. Each true moment is matched
// once, each prediction to the free true moment that it overlaps most, in order
// of score, equal scores in order of the list. Of true moments that overlap
// alike the later in the list is taken first, as in NumPy's sort of up to 16
// numbers without vector instructions; with them the official script's choice
// differs from one processor to the next. `truth` is not empty.
std::array<double, kIouThresholds> MomentAp(
    absl::Span<const Moment> truth, absl::Span<const ScoredMoment> predicted);

// Average precision of one query's clips for one annotator. `scores` beyond
// `relevant` do not count, missing ones are 0. None relevant is 0, all are 1.
// `relevant` is not empty.
double HighlightAp(const std::vector<bool>& relevant,
                   absl::Span<const double> scores);

// One query of QVHighlights and its answer.
struct MomentCase {
  std::vector<Moment> truth;            // One or more.
  std::vector<ScoredMoment> predicted;  // Best first. Empty: missed.
};

// In percent with two decimals.
struct MomentFigures {
  double recall_at_50 = 0;  // R@1 at IoU 0.5.
  double recall_at_70 = 0;
  double map = 0;  // Mean over the thresholds.
  double map_at_50 = 0;
  double map_at_75 = 0;
  // Mean AP of true moments of up to 10 s, up to 30 s, up to 150 s, each
  // without the bin before. Nothing when no query has one.
  std::optional<double> map_short;
  std::optional<double> map_middle;
  std::optional<double> map_long;
};

// `cases` is not empty.
MomentFigures MeasureMoments(absl::Span<const MomentCase> cases);

struct HighlightCase {
  std::vector<ClipScores> truth;  // One per clip of the video, one or more.
  std::vector<double> predicted;  // One per clip; one or more.
};

// In percent with two decimals.
struct HighlightFigures {
  double map = 0;  // Mean over queries and annotators.
  // Share of queries whose best clip is relevant to an annotator.
  double hit_at_1 = 0;
};

// Clips are relevant from `least_score` on: 2 fair, 3 good, 4 very good.
// `cases` is not empty.
HighlightFigures MeasureHighlights(absl::Span<const HighlightCase> cases,
                                   double least_score);

// A query with one true moment, as in Charades-STA.
struct SingleMomentCase {
  Moment truth;
  std::optional<Moment> predicted;  // The best answer. None: missed.
};

// In percent with two decimals; a moment counts from the threshold on.
struct SingleMomentFigures {
  double recall_at_30 = 0;
  double recall_at_50 = 0;
  double recall_at_70 = 0;
  double mean_iou = 0;
};

// `cases` is not empty.
SingleMomentFigures MeasureSingleMoments(
    absl::Span<const SingleMomentCase> cases);

// 100 times `share`, rounded to two decimals as printing it does.
double RoundedPercent(double share);

}  // namespace quern::cli
