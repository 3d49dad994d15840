#pragma once

#include <vector>

#include "absl/types/span.h"

#include "engine/fine/frame_run.h"

namespace quern {

struct WeightedRun {
  FrameRun run;
  double weight = 0;  // >= 0.
};

// How much the others agree with each run: sum over i of IoU(i, j)^0.6
// weight(i), itself included: proposals that several generators make from
// different evidence gain on those that one of them makes alone. One vote per
// run, in order.
std::vector<double> Votes(absl::Span<const WeightedRun> runs);

}  // namespace quern
