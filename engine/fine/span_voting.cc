#include "engine/fine/span_voting.h"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

double RunIou(const FrameRun& a, const FrameRun& b) {
  const int64_t common = std::min(a.end, b.end) - std::max(a.begin, b.begin);
  if (common <= 0) return 0;
  return static_cast<double>(common) /
         static_cast<double>(a.size() + b.size() - common);
}

}  // namespace

std::vector<double> Votes(absl::Span<const WeightedRun> runs) {
  constexpr double kSharpness = 0.6;
  std::vector<double> votes;
  votes.reserve(runs.size());
  for (const WeightedRun& candidate : runs) {
    double vote = 0;
    for (const WeightedRun& voter : runs) {
      const double iou = RunIou(voter.run, candidate.run);
      if (iou > 0) vote += std::pow(iou, kSharpness) * voter.weight;
    }
    votes.push_back(vote);
  }
  return votes;
}

}  // namespace quern
