#include "client/cli/moment_metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "absl/strings/str_format.h"

#include "client/cli/pairwise_sum.h"

namespace quern::cli {
namespace {

constexpr size_t kMaxPredictions = 10;
constexpr std::array<double, kIouThresholds> kThresholds = {
    0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95};

using ThresholdValues = std::array<double, kIouThresholds>;

// Lengths of true moments in (above, up_to].
struct LengthBin {
  double above;
  double up_to;
};

double Intersection(const Moment& a, const Moment& b) {
  return std::max(0.0, std::min(a.end, b.end) - std::max(a.start, b.start));
}

// Places of `ious` by falling IoU; NaN first, of equal ones the last first.
std::vector<size_t> ByFallingIou(const std::vector<double>& ious) {
  std::vector<size_t> order(ious.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&ious](size_t a, size_t b) {
    if (std::isnan(ious[b])) return !std::isnan(ious[a]);
    return ious[a] < ious[b];
  });
  std::reverse(order.begin(), order.end());
  return order;
}

// Matches predictions, best first, with true moments at one threshold.
class Matcher {
 public:
  Matcher(double threshold, size_t truths)
      : threshold_(threshold), taken_(truths, false) {}

  // Whether the prediction with these IoUs finds a true moment that is free.
  bool Match(const std::vector<double>& ious,
             const std::vector<size_t>& order) {
    for (const size_t i : order) {
      if (ious[i] < threshold_) return false;
      if (taken_[i]) continue;
      taken_[i] = true;
      return true;
    }
    return false;
  }

 private:
  const double threshold_;
  std::vector<bool> taken_;
};

// Area under the interpolated precision-recall curve (Pascal VOC 2011) of
// predictions that are right or wrong, best first.
double AreaUnderCurve(const std::vector<bool>& right, size_t truths) {
  std::vector<double> precision = {0};
  std::vector<double> recall = {0};
  double found = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    found += right[i] ? 1 : 0;
    precision.push_back(found / static_cast<double>(i + 1));
    recall.push_back(found / static_cast<double>(truths));
  }
  precision.push_back(0);
  recall.push_back(1);
  for (size_t i = precision.size() - 1; i-- > 0;) {
    precision[i] = std::max(precision[i], precision[i + 1]);
  }
  std::vector<double> areas;
  for (size_t i = 1; i < recall.size(); ++i) {
    if (recall[i] == recall[i - 1]) continue;
    areas.push_back((recall[i] - recall[i - 1]) * precision[i]);
  }
  return PairwiseSum(areas);
}

// The true moment that `predicted` is compared with for R@1.
const Moment& Closest(const Moment& predicted, absl::Span<const Moment> truth) {
  const Moment* closest = truth.data();
  double best = UnionIou(predicted, *closest);
  for (const Moment& moment : truth.subspan(1)) {
    if (std::isnan(best)) break;
    const double iou = UnionIou(predicted, moment);
    if (std::isnan(iou) || iou > best) {
      closest = &moment;
      best = iou;
    }
  }
  return *closest;
}

double FirstIou(const MomentCase& query) {
  if (query.predicted.empty()) return 0;
  const Moment& first = query.predicted.front().moment;
  return HullIou(first, Closest(first, query.truth));
}

// Share of `ious` that reach `threshold`.
double ShareFrom(const std::vector<double>& ious, double threshold) {
  const auto reached =
      std::count_if(ious.begin(), ious.end(),
                    [threshold](double iou) { return iou >= threshold; });
  return static_cast<double>(reached) / static_cast<double>(ious.size());
}

// Mean AP at each threshold. `cases` is not empty.
ThresholdValues MeanAp(absl::Span<const MomentCase> cases) {
  ThresholdValues sums = {};
  for (const MomentCase& query : cases) {
    const ThresholdValues ap = MomentAp(query.truth, query.predicted);
    for (size_t t = 0; t < sums.size(); ++t) sums[t] += ap[t];
  }
  for (double& sum : sums) sum /= static_cast<double>(cases.size());
  return sums;
}

std::optional<double> BinnedMap(absl::Span<const MomentCase> cases,
                                LengthBin bin) {
  std::vector<MomentCase> kept;
  for (const MomentCase& query : cases) {
    MomentCase part{{}, query.predicted};
    for (const Moment& moment : query.truth) {
      const double length = moment.end - moment.start;
      if (bin.above < length && length <= bin.up_to) {
        part.truth.push_back(moment);
      }
    }
    if (!part.truth.empty()) kept.push_back(std::move(part));
  }
  if (kept.empty()) return std::nullopt;
  return RoundedPercent(PairwiseMean(MeanAp(kept)));
}

// Scores for `clips` clips: cut, or filled up with 0.
std::vector<double> Fit(absl::Span<const double> scores, size_t clips) {
  std::vector<double> fitted(
      scores.begin(),
      scores.begin() + static_cast<ptrdiff_t>(std::min(clips, scores.size())));
  fitted.resize(clips, 0);
  return fitted;
}

std::vector<bool> RelevantTo(size_t annotator, double least_score,
                             absl::Span<const ClipScores> truth) {
  std::vector<bool> relevant;
  relevant.reserve(truth.size());
  for (const ClipScores& scores : truth) {
    relevant.push_back(scores[annotator] >= least_score);
  }
  return relevant;
}

bool HitsAtOne(const HighlightCase& query, double least_score) {
  const auto best =
      std::max_element(query.predicted.begin(), query.predicted.end());
  const auto clip = static_cast<size_t>(best - query.predicted.begin());
  if (clip >= query.truth.size()) return false;
  return std::any_of(
      query.truth[clip].begin(), query.truth[clip].end(),
      [least_score](double score) { return score >= least_score; });
}

}  // namespace

double UnionIou(const Moment& a, const Moment& b) {
  const double intersection = Intersection(a, b);
  return intersection / ((a.end - a.start) + (b.end - b.start) - intersection);
}

double HullIou(const Moment& a, const Moment& b) {
  const double hull = std::max(a.end, b.end) - std::min(a.start, b.start);
  return hull == 0 ? 0 : Intersection(a, b) / hull;
}

ThresholdValues MomentAp(absl::Span<const Moment> truth,
                         absl::Span<const ScoredMoment> predicted) {
  predicted = predicted.subspan(0, kMaxPredictions);
  std::vector<ScoredMoment> sorted(predicted.begin(), predicted.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const ScoredMoment& a, const ScoredMoment& b) {
                     return a.score > b.score;
                   });
  std::vector<Matcher> matchers;
  matchers.reserve(kThresholds.size());
  for (const double threshold : kThresholds) {
    matchers.emplace_back(threshold, truth.size());
  }
  std::array<std::vector<bool>, kIouThresholds> right;
  for (const ScoredMoment& prediction : sorted) {
    std::vector<double> ious;
    ious.reserve(truth.size());
    for (const Moment& moment : truth) {
      ious.push_back(UnionIou(prediction.moment, moment));
    }
    const std::vector<size_t> order = ByFallingIou(ious);
    for (size_t t = 0; t < matchers.size(); ++t) {
      right[t].push_back(matchers[t].Match(ious, order));
    }
  }
  ThresholdValues ap = {};
  for (size_t t = 0; t < ap.size(); ++t) {
    ap[t] = sorted.empty() ? 0 : AreaUnderCurve(right[t], truth.size());
  }
  return ap;
}

double HighlightAp(const std::vector<bool>& relevant,
                   absl::Span<const double> scores) {
  const auto positives = std::count(relevant.begin(), relevant.end(), true);
  if (positives == 0) return 0;
  if (static_cast<size_t>(positives) == relevant.size()) return 1;
  const std::vector<double> fitted = Fit(scores, relevant.size());
  std::vector<size_t> order(fitted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&fitted](size_t a, size_t b) { return fitted[a] > fitted[b]; });
  // At each distinct score from the best down: what precision is there, and
  // whether it brought a relevant clip.
  std::vector<double> precision;
  std::vector<bool> is_step;
  double found = 0;
  double found_before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    found += relevant[order[i]] ? 1 : 0;
    if (i + 1 < order.size() && fitted[order[i]] == fitted[order[i + 1]]) {
      continue;
    }
    precision.push_back(found / static_cast<double>(i + 1));
    is_step.push_back(found > found_before);
    found_before = found;
  }
  // Interpolated: the best precision at this recall or above.
  std::vector<double> steps;
  double best = 0;
  for (size_t i = precision.size(); i-- > 0;) {
    best = std::max(best, precision[i]);
    if (is_step[i]) steps.push_back(best);
  }
  return PairwiseMean(steps);
}

MomentFigures MeasureMoments(absl::Span<const MomentCase> cases) {
  std::vector<double> ious;
  ious.reserve(cases.size());
  for (const MomentCase& query : cases) ious.push_back(FirstIou(query));
  const ThresholdValues map = MeanAp(cases);
  MomentFigures figures;
  figures.recall_at_50 = RoundedPercent(ShareFrom(ious, 0.5));
  figures.recall_at_70 = RoundedPercent(ShareFrom(ious, 0.7));
  figures.map = RoundedPercent(PairwiseMean(map));
  figures.map_at_50 = RoundedPercent(map[0]);
  figures.map_at_75 = RoundedPercent(map[kIou75]);
  figures.map_short = BinnedMap(cases, {0, 10});
  figures.map_middle = BinnedMap(cases, {10, 30});
  figures.map_long = BinnedMap(cases, {30, 150});
  return figures;
}

HighlightFigures MeasureHighlights(absl::Span<const HighlightCase> cases,
                                   double least_score) {
  std::vector<double> ap;
  ap.reserve(cases.size() * kAnnotators);
  double hits = 0;
  for (const HighlightCase& query : cases) {
    hits += HitsAtOne(query, least_score) ? 1 : 0;
    for (size_t annotator = 0; annotator < kAnnotators; ++annotator) {
      ap.push_back(HighlightAp(RelevantTo(annotator, least_score, query.truth),
                               query.predicted));
    }
  }
  return {RoundedPercent(PairwiseMean(ap)),
          RoundedPercent(hits / static_cast<double>(cases.size()))};
}

SingleMomentFigures MeasureSingleMoments(
    absl::Span<const SingleMomentCase> cases) {
  std::vector<double> ious;
  ious.reserve(cases.size());
  for (const SingleMomentCase& query : cases) {
    ious.push_back(query.predicted ? HullIou(*query.predicted, query.truth)
                                   : 0);
  }
  return {RoundedPercent(ShareFrom(ious, 0.3)),
          RoundedPercent(ShareFrom(ious, 0.5)),
          RoundedPercent(ShareFrom(ious, 0.7)),
          RoundedPercent(PairwiseMean(ious))};
}

double RoundedPercent(double share) {
  return std::strtod(absl::StrFormat("%.2f", 100 * share).c_str(), nullptr);
}

}  // namespace quern::cli
