#include "client/cli/moments_page.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
video{width:100%;max-height:60vh;background:#000}
h2{font-size:1.1rem;margin:2rem 0 .3rem}
.line{position:relative;height:3.5rem;background:#f0f0f0;border-radius:4px;overflow:hidden}
.line svg{position:absolute;inset:0;width:100%;height:100%}
.span{position:absolute;top:0;bottom:0;border:0;background:#0a84ff44;border-left:2px solid #0a84ff;border-right:2px solid #0a84ff;cursor:pointer}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin-top:.6rem}
.card{border:1px solid #ccc;border-radius:6px;background:none;padding:.4rem;font:inherit;text-align:left;cursor:pointer}
.card img{display:block;max-width:10rem;max-height:7rem}
</style>
)";

// Plays from the start of the span that was clicked.
constexpr char kScript[] = R"(<script>
const video = document.querySelector("video");
document.querySelectorAll("[data-start]").forEach(button => button.addEventListener("click", () => {
  if (!video) return;
  video.currentTime = Number(button.dataset.start);
  video.play();
}));
</script>
)";

double ShareOf(double seconds, double duration) {
  return duration > 0 ? std::clamp(seconds / duration, 0.0, 1.0) : 0;
}

// The curve from its least to its greatest value over the row's height.
std::string Curve(const MomentsRow& row, double duration) {
  if (row.saliency.empty()) return "";
  const auto [least, most] =
      std::minmax_element(row.saliency.begin(), row.saliency.end());
  const double range = std::max(1e-6, double{*most} - *least);
  std::string points;
  for (size_t i = 0; i < row.saliency.size(); ++i) {
    absl::StrAppendFormat(&points, "%.2f,%.2f ",
                          1000 * ShareOf(row.times[i], duration),
                          95 - 90 * (row.saliency[i] - *least) / range);
  }
  return absl::StrCat(
      "<svg viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\"><polyline "
      "points=\"",
      points,
      "\" fill=\"none\" stroke=\"#444\" stroke-width=\"1.5\" "
      "vector-effect=\"non-scaling-stroke\"/></svg>");
}

std::string Card(const MomentsSpan& span) {
  std::string picture;
  if (span.thumbnail.has_value()) {
    picture = absl::StrCat("<img alt=\"\" src=\"data:image/jpeg;base64,",
                           absl::Base64Escape(span.thumbnail->jpeg), "\">");
  }
  std::string probability;
  if (span.probability.has_value()) {
    probability = absl::StrFormat(", %.0f %%", 100 * *span.probability);
  }
  return absl::StrFormat(
      "<button class=\"card\" data-start=\"%.3f\">%s%s – %s<br>score %.3f%s"
      "</button>\n",
      span.start, picture, ClockTime(span.start), ClockTime(span.end),
      span.score, probability);
}

std::string Row(const MomentsRow& row, double duration) {
  std::string html =
      absl::StrCat("<h2>", EscapeHtml(row.sentence),
                   "</h2>\n<div class=\"line\">", Curve(row, duration));
  for (const MomentsSpan& span : row.spans) {
    const double left = ShareOf(span.start, duration);
    absl::StrAppendFormat(
        &html,
        "<button class=\"span\" data-start=\"%.3f\" style=\"left:%.3f%%;"
        "width:%.3f%%\" title=\"%s – %s\"></button>",
        span.start, 100 * left, 100 * (ShareOf(span.end, duration) - left),
        ClockTime(span.start), ClockTime(span.end));
  }
  absl::StrAppend(&html, "</div>\n");
  if (row.spans.empty()) {
    return absl::StrCat(html, "<p>Not in this video.</p>\n");
  }
  absl::StrAppend(&html, "<div class=\"cards\">\n");
  for (const MomentsSpan& span : row.spans) absl::StrAppend(&html, Card(span));
  return absl::StrCat(html, "</div>\n");
}

}  // namespace

std::string ClockTime(double seconds) {
  constexpr int64_t kTenthsPerMinute = 600;
  const int64_t tenths = std::llround(seconds * 10);
  return absl::StrFormat("%d:%02d.%d", tenths / kTenthsPerMinute,
                         tenths % kTenthsPerMinute / 10, tenths % 10);
}

std::string RenderMoments(const MomentsPage& page) {
  const std::string title = EscapeHtml(page.title);
  std::string html = absl::StrCat(
      kHead, "<title>", title, "</title></head><body>\n<h1>", title, "</h1>\n");
  if (page.video.empty()) {
    absl::StrAppend(&html,
                    "<p>The video is too large to lie in this page.</p>\n");
  } else {
    absl::StrAppend(
        &html, "<video controls src=\"data:", EscapeHtml(page.video_type),
        ";base64,", absl::Base64Escape(page.video), "\"></video>\n");
  }
  for (const MomentsRow& row : page.rows) {
    absl::StrAppend(&html, Row(row, page.duration));
  }
  absl::StrAppend(&html, "<p>", ClockTime(page.duration), ", model ",
                  EscapeHtml(page.model), "</p>\n", kScript,
                  "</body></html>\n");
  return html;
}

}  // namespace quern::cli
