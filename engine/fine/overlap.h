#pragma once

#include <algorithm>

#include "engine/fine/evidence.h"

// How much two results have in common. Pure; areas and lengths of nothing give
// an overlap of 0, never NaN.

namespace quern {

inline double Area(const Box& box) {
  return std::max(0.0, double{box.right} - box.left) *
         std::max(0.0, double{box.bottom} - box.top);
}

// Area in common.
inline double Intersection(const Box& a, const Box& b) {
  return std::max(0.0, double{std::min(a.right, b.right)} -
                           std::max(a.left, b.left)) *
         std::max(0.0, double{std::min(a.bottom, b.bottom)} -
                           std::max(a.top, b.top));
}

// Intersection over union, in [0, 1].
inline double Iou(const Box& a, const Box& b) {
  const double common = Intersection(a, b);
  const double both = Area(a) + Area(b) - common;
  return both > 0 ? common / both : 0;
}

inline double Length(const TimeSpan& span) {
  return std::max(0.0, span.end - span.start);
}

inline double Iou(const TimeSpan& a, const TimeSpan& b) {
  const double common =
      std::max(0.0, std::min(a.end, b.end) - std::max(a.start, b.start));
  const double both = Length(a) + Length(b) - common;
  return both > 0 ? common / both : 0;
}

}  // namespace quern
