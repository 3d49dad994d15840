#include "client/cli/place.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/cli/moments_page.h"
#include "client/cli/proto_time.h"

namespace quern::cli {
namespace {

const v1::Evidence* FirstEvidence(const v1::Hit& hit) {
  return hit.evidence().empty() ? nullptr : &hit.evidence(0);
}

}  // namespace

v1::PixelBox ToPixels(const v1::Box& box, int width, int height) {
  const auto pixel = [](float share, int side) {
    return static_cast<int>(std::lround(double{share} * side));
  };
  const int left = std::clamp(pixel(box.left(), width), 0, width - 1);
  const int top = std::clamp(pixel(box.top(), height), 0, height - 1);
  v1::PixelBox pixels;
  pixels.set_left(left);
  pixels.set_top(top);
  pixels.set_width(
      std::clamp(pixel(box.right(), width) - left, 1, width - left));
  pixels.set_height(
      std::clamp(pixel(box.bottom(), height) - top, 1, height - top));
  return pixels;
}

std::optional<v1::PixelBox> PixelsOf(const v1::Hit& hit) {
  const v1::Evidence* evidence = FirstEvidence(hit);
  const v1::PartsInfo& parts = hit.item().parts();
  if (evidence == nullptr || !evidence->has_box() || parts.width() < 1 ||
      parts.height() < 1) {
    return std::nullopt;
  }
  return ToPixels(evidence->box(), parts.width(), parts.height());
}

std::string PlaceText(const v1::Hit& hit) {
  if (const auto pixels = PixelsOf(hit); pixels.has_value()) {
    return absl::StrCat(pixels->left(), ",", pixels->top(), " ",
                        pixels->width(), "x", pixels->height());
  }
  const v1::Evidence* evidence = FirstEvidence(hit);
  if (evidence == nullptr) return "-";
  if (evidence->has_box()) {
    const v1::Box& box = evidence->box();
    return absl::StrFormat("%.0f%%,%.0f%% %.0f%%x%.0f%%", 100 * box.left(),
                           100 * box.top(), 100 * (box.right() - box.left()),
                           100 * (box.bottom() - box.top()));
  }
  if (evidence->has_span()) {
    return absl::StrCat(ClockTime(Seconds(evidence->span().start())), "-",
                        ClockTime(Seconds(evidence->span().end())));
  }
  return "-";
}

}  // namespace quern::cli
