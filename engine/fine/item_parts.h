#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/fine/evidence.h"
#include "engine/fine/quantized_features.h"

namespace quern {

// What is known of an item's parts without their features.
struct PartsShape {
  // Cells of a picture's grid, which covers all of the picture evenly; 0 for a
  // video.
  int64_t grid_height = 0;
  int64_t grid_width = 0;
  int64_t frames = 0;       // Of a video; 0 for a picture.
  absl::Duration duration;  // Of a video.
  int64_t width = 0;        // Pixels of the upright original.
  int64_t height = 0;
};

// A picture's grid or a video's frames as the store keeps them, so that looking
// at a stored item decodes no media.
struct PartFeatures {
  PartsShape shape;
  // Of a video: when each frame appears, rising, and at how many of the sampled
  // times it is shown, at least 1. Both have shape.frames values.
  std::vector<absl::Duration> times;
  std::vector<int64_t> samples;
  // A row per cell, row by row of the grid, or per frame.
  QuantizedFeatures features;
};

// As bytes; README.md has the table. Sides of a picture and of a grid are below
// 2^32, rows are as many as the shape says.
std::string EncodeParts(const PartFeatures& parts);

// The inverses; the second reads the head alone. Errors: kDataLoss for bytes
// that EncodeParts() cannot have written.
absl::StatusOr<PartFeatures> DecodeParts(absl::string_view bytes);
absl::StatusOr<PartsShape> DecodePartsShape(absl::string_view bytes);

// Where the part of a row of `parts.features` lies in the picture or the video:
// a frame lasts until the next one.
Evidence EvidenceOf(const PartFeatures& parts, int64_t row);

}  // namespace quern
