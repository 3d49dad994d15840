#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/base/matrix.h"

namespace quern {

// A rectangle of a grid's cells: rows top to bottom - 1, columns left to
// right - 1.
struct GridWindow {
  int64_t top = 0;
  int64_t left = 0;
  int64_t bottom = 0;
  int64_t right = 0;

  friend bool operator==(const GridWindow&, const GridWindow&) = default;
};

// The windows by which a picture with such a grid is searched, each once, the
// whole first: 21 of 7 x 7 cells or more. Both sides are at least 1.
std::vector<GridWindow> WindowsOf(int64_t grid_height, int64_t grid_width);

// The vectors by which an item's parts are searched, of the bytes of
// EncodeParts(): of a video its frames, of a picture the mean of the cells,
// each of length one, in each window. Rows have length one, or 0 where nothing
// was kept of the part. Errors: kDataLoss for bytes that EncodeParts() cannot
// have written.
absl::StatusOr<Matrix> SearchRows(absl::string_view parts);

}  // namespace quern
