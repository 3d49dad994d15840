#include "engine/fine/best_box.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace quern {
namespace {

// Moves that gain less are rounding.
constexpr double kMinGain = 1e-9;

// Between which two cells a point of the finer map lies, and how far.
struct Between {
  int64_t first = 0;
  int64_t second = 0;
  float share = 0;  // Of the second.
};

Between Locate(int64_t fine, int64_t factor, int64_t cells) {
  const double centre =
      (static_cast<double>(fine) + 0.5) / static_cast<double>(factor) - 0.5;
  const double position =
      std::clamp(centre, 0.0, static_cast<double>(cells - 1));
  const auto first = static_cast<int64_t>(position);
  return {.first = first,
          .second = std::min(first + 1, cells - 1),
          .share = static_cast<float>(position - static_cast<double>(first))};
}

}  // namespace

CellBox BestBox(const ScoreMap& map, double threshold) {
  const auto best_cell = static_cast<int64_t>(
      std::max_element(map.scores.begin(), map.scores.end()) -
      map.scores.begin());
  CellBox best = {.left = best_cell % map.width,
                  .top = best_cell / map.width,
                  .right = best_cell % map.width + 1,
                  .bottom = best_cell / map.width + 1};
  double best_sum = 0;
  std::vector<double> columns(map.width);
  for (int64_t top = 0; top < map.height; ++top) {
    std::fill(columns.begin(), columns.end(), 0);
    for (int64_t bottom = top + 1; bottom <= map.height; ++bottom) {
      double sum = 0;
      int64_t left = 0;
      for (int64_t column = 0; column < map.width; ++column) {
        columns[column] += map.at(bottom - 1, column) - threshold;
        if (sum <= 0) {
          sum = 0;
          left = column;
        }
        sum += columns[column];
        if (sum <= best_sum) continue;
        best_sum = sum;
        best = {
            .left = left, .top = top, .right = column + 1, .bottom = bottom};
      }
    }
  }
  return best;
}

ScoreMap Upsampled(const ScoreMap& map, int64_t factor) {
  ScoreMap fine{.height = map.height * factor, .width = map.width * factor};
  fine.scores.resize(fine.height * fine.width);
  std::vector<Between> columns(fine.width);
  for (int64_t column = 0; column < fine.width; ++column) {
    columns[column] = Locate(column, factor, map.width);
  }
  std::vector<float> line(map.width);
  for (int64_t row = 0; row < fine.height; ++row) {
    const Between rows = Locate(row, factor, map.height);
    for (int64_t column = 0; column < map.width; ++column) {
      line[column] = map.at(rows.first, column) * (1 - rows.share) +
                     map.at(rows.second, column) * rows.share;
    }
    float* out = fine.scores.data() + row * fine.width;
    for (int64_t column = 0; column < fine.width; ++column) {
      const Between& at = columns[column];
      out[column] =
          line[at.first] * (1 - at.share) + line[at.second] * at.share;
    }
  }
  return fine;
}

CellBox Refine(CellBox box, int64_t height, int64_t width,
               absl::FunctionRef<double(const CellBox&)> worth) {
  double current = worth(box);
  for (;;) {
    CellBox best = box;
    double best_worth = current + kMinGain;
    for (int64_t CellBox::*edge :
         {&CellBox::left, &CellBox::top, &CellBox::right, &CellBox::bottom}) {
      for (const int64_t step : {-1, 1}) {
        CellBox moved = box;
        moved.*edge += step;
        if (moved.left < 0 || moved.top < 0 || moved.right > width ||
            moved.bottom > height || moved.left >= moved.right ||
            moved.top >= moved.bottom) {
          continue;
        }
        const double moved_worth = worth(moved);
        if (moved_worth <= best_worth) continue;
        best = moved;
        best_worth = moved_worth;
      }
    }
    if (best == box) return box;
    box = best;
    current = best_worth;
  }
}

}  // namespace quern
