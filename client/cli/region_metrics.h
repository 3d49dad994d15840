#pragma once

#include <optional>

#include "absl/types/span.h"

// Figures of image grounding, pure and without files.

namespace quern::cli {

// In pixels, as COCO writes boxes; the sides are 0 or more.
struct RegionBox {
  double left = 0;
  double top = 0;
  double width = 0;
  double height = 0;
};

struct ImagePoint {
  double x = 0;
  double y = 0;
};

// Intersection over union of the areas; 0 when both are empty.
double BoxIou(const RegionBox& a, const RegionBox& b);

ImagePoint Centre(const RegionBox& box);

// The edges count as inside.
bool Contains(const RegionBox& box, const ImagePoint& point);

// A phrase whose region is known.
struct RegionCase {
  RegionBox truth;
  // The best box and the point to look at. None: missed.
  std::optional<RegionBox> predicted;
  std::optional<ImagePoint> point;
};

// In percent with two decimals.
struct RegionFigures {
  double accuracy_at_50 = 0;  // Boxes with an IoU of 0.5 or more.
  double pointing = 0;        // Points inside the true box.
};

// `cases` is not empty.
RegionFigures MeasureRegions(absl::Span<const RegionCase> cases);

// How sure an answer is that the phrase is in the picture, and whether it is.
struct PresenceCase {
  double score = 0;
  bool present = false;
};

// Average precision of presence in percent with two decimals: the sum over
// distinct scores, best first, of the precision there times the recall gained,
// without interpolation. Nothing when no phrase is present.
std::optional<double> PresenceAp(absl::Span<const PresenceCase> cases);

}  // namespace quern::cli
