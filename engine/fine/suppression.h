#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "engine/fine/overlap.h"

// Of results that lie on each other, keeps the best. `Where` is a Box or a
// TimeSpan.

namespace quern {

template <typename Where>
struct Scored {
  Where where;
  double score = 0;  // Higher is better.
};

// Greedy non-maximum suppression: the places in `results` of those that are
// kept, best first, each left out whose overlap with a better one that was kept
// is `max_iou` or more; `max_results` at most. Of equal scores the first goes
// first.
template <typename Where>
std::vector<size_t> Suppress(const std::vector<Scored<Where>>& results,
                             double max_iou, int64_t max_results) {
  std::vector<size_t> order(results.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return results[a].score > results[b].score;
  });
  std::vector<size_t> kept;
  for (const size_t candidate : order) {
    if (static_cast<int64_t>(kept.size()) == max_results) break;
    const bool is_apart =
        std::all_of(kept.begin(), kept.end(), [&](size_t better) {
          return Iou(results[better].where, results[candidate].where) < max_iou;
        });
    if (is_apart) kept.push_back(candidate);
  }
  return kept;
}

}  // namespace quern
