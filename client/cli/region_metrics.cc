#include "client/cli/region_metrics.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "client/cli/moment_metrics.h"

namespace quern::cli {

double BoxIou(const RegionBox& a, const RegionBox& b) {
  const double width =
      std::min(a.left + a.width, b.left + b.width) - std::max(a.left, b.left);
  const double height =
      std::min(a.top + a.height, b.top + b.height) - std::max(a.top, b.top);
  const double both = std::max(0.0, width) * std::max(0.0, height);
  const double either = a.width * a.height + b.width * b.height - both;
  return either > 0 ? both / either : 0;
}

ImagePoint Centre(const RegionBox& box) {
  return {box.left + box.width / 2, box.top + box.height / 2};
}

bool Contains(const RegionBox& box, const ImagePoint& point) {
  return box.left <= point.x && point.x <= box.left + box.width &&
         box.top <= point.y && point.y <= box.top + box.height;
}

RegionFigures MeasureRegions(absl::Span<const RegionCase> cases) {
  double fitting = 0;
  double inside = 0;
  for (const RegionCase& query : cases) {
    if (query.predicted && BoxIou(query.truth, *query.predicted) >= 0.5) {
      ++fitting;
    }
    if (query.point && Contains(query.truth, *query.point)) ++inside;
  }
  const auto count = static_cast<double>(cases.size());
  return {RoundedPercent(fitting / count), RoundedPercent(inside / count)};
}

std::optional<double> PresenceAp(absl::Span<const PresenceCase> cases) {
  std::vector<PresenceCase> sorted(cases.begin(), cases.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const PresenceCase& a, const PresenceCase& b) {
              return a.score > b.score;
            });
  const auto total =
      std::count_if(sorted.begin(), sorted.end(),
                    [](const PresenceCase& query) { return query.present; });
  if (total == 0) return std::nullopt;
  double sum = 0;
  double found = 0;
  double found_before = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    found += sorted[i].present ? 1 : 0;
    if (i + 1 < sorted.size() && sorted[i].score == sorted[i + 1].score) {
      continue;
    }
    sum += found / static_cast<double>(i + 1) * (found - found_before);
    found_before = found;
  }
  return RoundedPercent(sum / static_cast<double>(total));
}

}  // namespace quern::cli
