#include "engine/fine/change_points.h"

#include <algorithm>
#include <cmath>

#include "engine/fine/score_map.h"

namespace quern {
namespace {

using Sums = std::vector<float>;

// Adds `sign` times a row.
void Add(absl::Span<const float> row, float sign, Sums& sums) {
  for (size_t i = 0; i < row.size(); ++i) sums[i] += sign * row[i];
}

// The three products in one pass, in lanes that can be vector instructions.
double CosineOf(const Sums& a, const Sums& b) {
  constexpr size_t kLanes = 8;
  float products[kLanes] = {};
  float a_squares[kLanes] = {};
  float b_squares[kLanes] = {};
  size_t i = 0;
  const auto take = [&](size_t lane, size_t at) {
    products[lane] += a[at] * b[at];
    a_squares[lane] += a[at] * a[at];
    b_squares[lane] += b[at] * b[at];
  };
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) take(lane, i + lane);
  }
  for (size_t lane = 0; i < a.size(); ++i, ++lane) take(lane, i);
  double product = 0, a_square = 0, b_square = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    product += products[lane];
    a_square += a_squares[lane];
    b_square += b_squares[lane];
  }
  const double norms = std::sqrt(a_square * b_square);
  return norms > 0 ? product / norms : 0;
}

// One value per frame, 0 for the first. Sums slide along with the frames.
std::vector<float> Novelty(const MatrixView& frames, int64_t reach) {
  std::vector<float> novelty(frames.rows);
  Sums before(frames.columns);
  Sums from(frames.columns);
  for (int64_t i = 0; i < std::min(reach, frames.rows); ++i) {
    Add(frames.row(i), 1, from);
  }
  for (int64_t at = 1; at < frames.rows; ++at) {
    Add(frames.row(at - 1), 1, before);
    Add(frames.row(at - 1), -1, from);
    if (at > reach) Add(frames.row(at - 1 - reach), -1, before);
    if (at - 1 + reach < frames.rows) Add(frames.row(at - 1 + reach), 1, from);
    novelty[at] = static_cast<float>(1 - CosineOf(before, from));
  }
  return novelty;
}

}  // namespace

std::vector<int64_t> ChangePoints(const MatrixView& frames, int64_t reach) {
  constexpr double kDeviations = 1;
  std::vector<int64_t> points;
  if (frames.rows < 2) return points;
  const std::vector<float> novelty = Novelty(frames, reach);
  const ScoreMoments moments =
      MomentsOf(absl::MakeConstSpan(novelty).subspan(1));
  const double threshold = moments.mean + kDeviations * moments.deviation;
  for (int64_t at = 1; at < frames.rows; ++at) {
    const bool is_peak =
        novelty[at] > threshold && (at == 1 || novelty[at] > novelty[at - 1]) &&
        (at + 1 == frames.rows || novelty[at] >= novelty[at + 1]);
    if (is_peak) points.push_back(at);
  }
  return points;
}

std::vector<FrameRun> RunsBetween(const std::vector<int64_t>& change_points,
                                  int64_t frames, int64_t max_parts) {
  std::vector<int64_t> edges = {0};
  edges.insert(edges.end(), change_points.begin(), change_points.end());
  edges.push_back(frames);
  const auto parts = static_cast<int64_t>(edges.size()) - 1;
  std::vector<FrameRun> runs;
  for (int64_t first = 0; first < parts; ++first) {
    const int64_t last = std::min(parts, first + max_parts);
    for (int64_t end = first + 1; end <= last; ++end) {
      runs.push_back({.begin = edges[first], .end = edges[end]});
    }
  }
  return runs;
}

}  // namespace quern
