#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/fine/compressed_features.h"
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

// The same, borrowed, with the features in the form in which they are kept.
struct PartsView {
  PartsShape shape;
  absl::Span<const absl::Duration> times;  // Both as in PartFeatures.
  absl::Span<const int64_t> samples;
  QuantizedView features;  // Without values where the next is not null.
  const CompressedFeatures* compressed = nullptr;

  PartsView() = default;
  PartsView(const PartFeatures& parts)  // NOLINT: as string_view.
      : shape(parts.shape),
        times(parts.times),
        samples(parts.samples),
        features(parts.features) {}
};

// Reads parts where they lie, one item's after the other's, with the same
// memory for all. Not thread-safe.
class PartsReader {
 public:
  // What comes back is good until the next call, and no longer than `bytes`.
  // Errors: kDataLoss for bytes that EncodeParts() cannot have written.
  absl::StatusOr<PartsView> Read(absl::string_view bytes);

 private:
  std::vector<absl::Duration> times_;
  std::vector<int64_t> samples_;
  std::vector<float> scales_;
  CompressedFeatures compressed_;
};

// As bytes; README.md has the table. Sides of a picture and of a grid are below
// 2^32, rows are as many as the shape says. The second keeps `features` instead
// of those of `parts`.
std::string EncodeParts(const PartFeatures& parts);
std::string EncodeParts(const PartFeatures& parts,
                        const CompressedFeatures& features);

// The inverses; compressed features come back as bytes with scales. The second
// reads the head alone. Errors: kDataLoss for bytes that EncodeParts() cannot
// have written.
absl::StatusOr<PartFeatures> DecodeParts(absl::string_view bytes);
absl::StatusOr<PartsShape> DecodePartsShape(absl::string_view bytes);

// Where the part of a row of the features lies in the picture or the video: a
// frame lasts until the next one.
Evidence EvidenceOf(const PartsView& parts, int64_t row);

}  // namespace quern
