#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

#include "engine/fine/score_map.h"

namespace quern {

// The box whose cells add up to most when `threshold` is taken off each: cells
// above it are worth having, cells below it cost. Never empty: without a cell
// above the threshold it is the best cell alone. Of equal boxes the first one
// in order of (top, bottom, left).
//
// Exact, in O(height² width): the best run of columns (Kadane's scan; Bentley,
// "Programming pearls: algorithm design techniques", 1984) of every pair of
// rows.
CellBox BestBox(const ScoreMap& map, double threshold);

// `map` at `factor` times its resolution, by bilinear interpolation between the
// cells' centres; beyond the outer centres the outer cells go on. `factor`
// >= 1.
ScoreMap Upsampled(const ScoreMap& map, int64_t factor);

// Moves one edge of `box` at a time by one cell, each time the best such move,
// as long as `worth` grows: hill climbing to a box that no such move improves.
// The box stays within a map of height x width and not empty.
CellBox Refine(CellBox box, int64_t height, int64_t width,
               absl::FunctionRef<double(const CellBox&)> worth);

}  // namespace quern
