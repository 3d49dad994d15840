#pragma once

#include <vector>

#include "engine/fine/score_map.h"

namespace quern {

// The boxes round the groups of cells above `threshold` that touch each other
// at an edge (4-connected components, by flood fill; Rosenfeld and Pfaltz,
// "Sequential operations in digital picture processing", 1966), in order of
// their first cell. Empty when no cell is above.
std::vector<CellBox> ComponentBoxes(const ScoreMap& map, double threshold);

}  // namespace quern
