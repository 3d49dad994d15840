#include "engine/fine/part_windows.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/types/span.h"

#include "engine/base/status_macros.h"
#include "engine/fine/cosine_map.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/quantized_features.h"

namespace quern {
namespace {

// Windows of one size, evenly spread: `count` along each side of the picture,
// each `share` of the side long.
struct Scale {
  int64_t count;
  double share;
};
// Chosen among others on mosaics and scenes, see README.md.
constexpr Scale kScales[] = {{1, 1.0}, {2, 1.0 / 2}, {4, 2.0 / 7}};

// First and last cell, of so many, of the window of each place along a side.
std::vector<std::pair<int64_t, int64_t>> RangesOf(const Scale& scale,
                                                  int64_t cells) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  const auto length = std::max<int64_t>(
      1, std::lround(scale.share * static_cast<double>(cells)));
  for (int64_t i = 0; i < scale.count; ++i) {
    const double place =
        scale.count == 1
            ? 0
            : static_cast<double>(i) / static_cast<double>(scale.count - 1);
    const int64_t first =
        std::lround(place * static_cast<double>(cells - length));
    ranges.emplace_back(first, first + length);
  }
  return ranges;
}

void ScaleToUnit(absl::Span<float> row) {
  double squares = 0;
  for (const float value : row) squares += double{value} * value;
  if (squares == 0) return;
  const double length = std::sqrt(squares);
  for (float& value : row) value = static_cast<float>(value / length);
}

Matrix RowsOfWindows(const PartsShape& shape, const Matrix& cells) {
  const std::vector<GridWindow> windows =
      WindowsOf(shape.grid_height, shape.grid_width);
  Matrix rows(static_cast<int64_t>(windows.size()), cells.columns());
  for (size_t i = 0; i < windows.size(); ++i) {
    const GridWindow& window = windows[i];
    const absl::Span<float> sum = rows.row(static_cast<int64_t>(i));
    for (int64_t y = window.top; y < window.bottom; ++y) {
      for (int64_t x = window.left; x < window.right; ++x) {
        AddScaled(cells.row(y * shape.grid_width + x), 1, sum);
      }
    }
    ScaleToUnit(sum);
  }
  return rows;
}

}  // namespace

std::vector<GridWindow> WindowsOf(int64_t grid_height, int64_t grid_width) {
  std::vector<GridWindow> windows;
  for (const Scale& scale : kScales) {
    const auto columns = RangesOf(scale, grid_width);
    for (const auto& [top, bottom] : RangesOf(scale, grid_height)) {
      for (const auto& [left, right] : columns) {
        const GridWindow window = {top, left, bottom, right};
        // Of a grid of few cells many windows are the same.
        if (std::find(windows.begin(), windows.end(), window) ==
            windows.end()) {
          windows.push_back(window);
        }
      }
    }
  }
  return windows;
}

absl::StatusOr<Matrix> SearchRows(absl::string_view parts) {
  QUERN_ASSIGN_OR_RETURN(const PartFeatures kept, DecodeParts(parts));
  Matrix rows = Dequantize(kept.features);
  for (int64_t i = 0; i < rows.rows(); ++i) ScaleToUnit(rows.row(i));
  if (kept.shape.frames > 0) return rows;
  return RowsOfWindows(kept.shape, rows);
}

}  // namespace quern
