#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "engine/fine/evidence.h"

namespace quern {

// How well each cell of a picture's grid fits a phrase.
struct ScoreMap {
  int64_t height = 0;         // Cells; >= 1.
  int64_t width = 0;          // Cells; >= 1.
  std::vector<float> scores;  // height x width, row-major, finite.

  float at(int64_t row, int64_t column) const {
    return scores[row * width + column];
  }
};

// Mean and standard deviation (of the population) of `scores`, which are not
// empty.
struct ScoreMoments {
  double mean = 0;
  double deviation = 0;
};
ScoreMoments MomentsOf(absl::Span<const float> scores);

// A rectangle of cells: rows top..bottom-1, columns left..right-1.
struct CellBox {
  int64_t left = 0;
  int64_t top = 0;
  int64_t right = 0;
  int64_t bottom = 0;

  int64_t area() const { return (right - left) * (bottom - top); }
  friend bool operator==(const CellBox& a, const CellBox& b) {
    return a.left == b.left && a.top == b.top && a.right == b.right &&
           a.bottom == b.bottom;
  }
};

// `cells` as shares of the sides of a grid of height x width.
Box ToBox(const CellBox& cells, int64_t height, int64_t width);

// Sums over rectangles in four reads (Crow, "Summed-area tables for texture
// mapping", 1984; Viola and Jones, "Rapid object detection using a boosted
// cascade", 2001, equations 1 and 2).
class IntegralImage {
 public:
  // Of map.scores minus `offset`.
  explicit IntegralImage(const ScoreMap& map, double offset = 0);

  double Sum(const CellBox& box) const {
    return at(box.bottom, box.right) - at(box.top, box.right) -
           at(box.bottom, box.left) + at(box.top, box.left);
  }
  double Total() const { return sums_.back(); }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }

 private:
  double at(int64_t row, int64_t column) const {
    return sums_[row * (width_ + 1) + column];
  }

  int64_t height_;
  int64_t width_;
  std::vector<double> sums_;  // (height + 1) x (width + 1).
};

}  // namespace quern
