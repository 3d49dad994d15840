#include "engine/fine/components.h"

#include <algorithm>
#include <cstdint>

namespace quern {

std::vector<CellBox> ComponentBoxes(const ScoreMap& map, double threshold) {
  std::vector<CellBox> boxes;
  std::vector<bool> seen(map.scores.size());
  std::vector<int64_t> open;
  const auto visit = [&](int64_t row, int64_t column) {
    if (row < 0 || column < 0 || row >= map.height || column >= map.width) {
      return;
    }
    const int64_t cell = row * map.width + column;
    if (seen[cell] || !(map.scores[cell] > threshold)) return;
    seen[cell] = true;
    open.push_back(cell);
  };
  for (int64_t first = 0; first < map.height * map.width; ++first) {
    visit(first / map.width, first % map.width);
    if (open.empty()) continue;
    CellBox box = {.left = map.width, .top = map.height};
    while (!open.empty()) {
      const int64_t row = open.back() / map.width;
      const int64_t column = open.back() % map.width;
      open.pop_back();
      box = {.left = std::min(box.left, column),
             .top = std::min(box.top, row),
             .right = std::max(box.right, column + 1),
             .bottom = std::max(box.bottom, row + 1)};
      visit(row - 1, column);
      visit(row + 1, column);
      visit(row, column - 1);
      visit(row, column + 1);
    }
    boxes.push_back(box);
  }
  return boxes;
}

}  // namespace quern
