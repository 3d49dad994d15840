#include "engine/fine/score_map.h"

#include <algorithm>
#include <cmath>

namespace quern {

ScoreMoments MomentsOf(absl::Span<const float> scores) {
  ScoreMoments moments;
  for (const float score : scores) moments.mean += score;
  moments.mean /= static_cast<double>(scores.size());
  double squares = 0;
  for (const float score : scores) {
    squares += (score - moments.mean) * (score - moments.mean);
  }
  moments.deviation = std::sqrt(squares / static_cast<double>(scores.size()));
  return moments;
}

Box ToBox(const CellBox& cells, int64_t height, int64_t width) {
  const auto share = [](int64_t cell, int64_t side) {
    return static_cast<float>(static_cast<double>(cell) /
                              static_cast<double>(side));
  };
  return {.left = share(cells.left, width),
          .top = share(cells.top, height),
          .right = share(cells.right, width),
          .bottom = share(cells.bottom, height)};
}

IntegralImage::IntegralImage(const ScoreMap& map, double offset)
    : height_(map.height),
      width_(map.width),
      sums_((map.height + 1) * (map.width + 1)) {
  for (int64_t row = 0; row < height_; ++row) {
    double line = 0;
    for (int64_t column = 0; column < width_; ++column) {
      line += map.at(row, column) - offset;
      sums_[(row + 1) * (width_ + 1) + column + 1] = at(row, column + 1) + line;
    }
  }
}

}  // namespace quern
