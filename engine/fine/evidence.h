#pragma once

#include <optional>

namespace quern {

// A box in the upright picture, each value a share of its side in [0, 1].
struct Box {
  float left = 0;
  float top = 0;
  float right = 0;
  float bottom = 0;
};

// A stretch of a video, in seconds from its start; start <= end.
struct TimeSpan {
  double start = 0;
  double end = 0;
};

// What in a candidate earned its score: one of the two, or neither.
struct Evidence {
  std::optional<Box> box;
  std::optional<TimeSpan> span;
  float score = 0;
  // That what was asked for is there, in [0, 1]; null without a calibration.
  std::optional<float> probability = std::nullopt;
};

}  // namespace quern
