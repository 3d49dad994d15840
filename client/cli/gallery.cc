#include "client/cli/gallery.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/cli/moments_page.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

// The policy forbids scripts and every request, should an escape ever be
// missed.
constexpr absl::string_view kHead = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="quern">
)";

constexpr absl::string_view kStyle = R"(<style>
:root {
  --page: #f6f5f2; --card: #ffffff; --ink: #1d1c1a; --soft: #6a6660;
  --line: #e4e1db; --well: #efede8; --accent: #b4531f; --track: #ece8e1;
  --shadow: 0 1px 2px rgb(40 30 20 / .06), 0 6px 20px rgb(40 30 20 / .07);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161513; --card: #211f1c; --ink: #f1eee9; --soft: #a8a29a;
    --line: #34312c; --well: #1b1917; --accent: #f0935b; --track: #38342f;
    --shadow: 0 1px 2px rgb(0 0 0 / .4), 0 6px 20px rgb(0 0 0 / .3);
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { display: flex; gap: 24px; align-items: center; padding-top: 40px; padding-bottom: 24px; }
header > div { min-width: 0; }
header img { width: 112px; height: 112px; object-fit: cover; border-radius: 14px; box-shadow: var(--shadow); flex: none; }
.eyebrow { margin: 0 0 4px; color: var(--accent); font-size: 13px; font-weight: 650; letter-spacing: .06em; text-transform: uppercase; }
h1 { margin: 0; font-size: clamp(26px, 4vw, 40px); line-height: 1.15; letter-spacing: -.02em; font-weight: 700; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0 0; padding: 0; list-style: none; color: var(--soft); font-size: 14px; }
.facts b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.warning { margin: 0 0 20px; padding: 10px 16px; border: 1px solid var(--accent); border-radius: 12px; font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 20px; margin: 0; padding: 0; list-style: none; }
.card { display: flex; flex-direction: column; overflow: hidden; background: var(--card); border: 1px solid var(--line); border-radius: 16px; box-shadow: var(--shadow); }
.picture { position: relative; aspect-ratio: 1; background: var(--well); display: grid; place-items: center; overflow: hidden; }
.picture img { width: 100%; height: 100%; object-fit: contain; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect { fill: none; vector-effect: non-scaling-stroke; }
.picture .edge { stroke: #fff; stroke-width: 5; }
.picture .box { stroke: var(--accent); stroke-width: 3; }
.picture.none { color: var(--soft); font-size: 13px; background: repeating-linear-gradient(135deg, var(--well) 0 14px, var(--track) 14px 15px); }
.rank { position: absolute; top: 10px; left: 10px; min-width: 30px; padding: 2px 9px; border-radius: 99px; background: var(--card); color: var(--ink); border: 1px solid var(--line); font-size: 13px; font-weight: 650; text-align: center; font-variant-numeric: tabular-nums; }
.first .rank { background: var(--accent); border-color: var(--accent); color: var(--card); }
.text { display: flex; flex-direction: column; gap: 8px; padding: 14px 16px 16px; flex: 1; }
h2 { margin: 0; font-size: 15px; line-height: 1.4; font-weight: 600; overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
.score { display: flex; align-items: center; gap: 10px; margin-top: auto; color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.track { flex: 1; height: 5px; border-radius: 99px; background: var(--track); overflow: hidden; }
.track span { display: block; height: 100%; border-radius: 99px; background: var(--accent); }
.moment { display: flex; flex-direction: column; gap: 5px; color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.moment .track { flex: none; position: relative; height: 7px; }
.moment .track span { position: absolute; min-width: 3px; }
details { font-size: 13px; color: var(--soft); }
summary { cursor: pointer; border-radius: 6px; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
dl { display: grid; grid-template-columns: minmax(0, auto) minmax(0, 1fr); gap: 3px 10px; margin: 8px 0 0; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0; color: var(--ink); overflow-wrap: anywhere; }
.empty { padding: 72px 24px; text-align: center; color: var(--soft); background: var(--card); border: 1px dashed var(--line); border-radius: 16px; }
footer { padding-top: 28px; padding-bottom: 48px; color: var(--soft); font-size: 13px; }
@media (max-width: 560px) {
  header, main, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 24px; gap: 16px; }
  header img { width: 76px; height: 76px; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
}
@media print { .card { break-inside: avoid; box-shadow: none; } }
</style>
)";

std::string ImageTag(const Thumbnail& thumbnail, absl::string_view alt) {
  return absl::StrCat("<img src=\"data:image/jpeg;base64,",
                      absl::Base64Escape(thumbnail.jpeg), "\" width=\"",
                      thumbnail.width, "\" height=\"", thumbnail.height,
                      "\" alt=\"", EscapeHtml(alt), "\">");
}

std::string Fact(absl::string_view value, absl::string_view name) {
  return absl::StrCat("<li><b>", EscapeHtml(value), "</b> ", EscapeHtml(name),
                      "</li>\n");
}

std::string Header(const GalleryPage& page) {
  std::string html = "<header>\n";
  if (page.query_picture.has_value()) {
    absl::StrAppend(&html, ImageTag(*page.query_picture, "The query picture"),
                    "\n");
  }
  absl::StrAppend(&html, "<div>\n<p class=\"eyebrow\">",
                  EscapeHtml(page.collection), "</p>\n<h1>",
                  EscapeHtml(page.query), "</h1>\n<ul class=\"facts\">\n",
                  Fact(absl::StrCat(page.cards.size()),
                       page.cards.size() == 1 ? "hit" : "hits"),
                  Fact(absl::StrCat(page.item_count), "items searched"));
  for (const GalleryStage& stage : page.stages) {
    absl::StrAppend(&html, Fact(absl::StrFormat("%.1f ms", stage.milliseconds),
                                stage.name));
  }
  if (!page.model.empty()) absl::StrAppend(&html, Fact(page.model, "model"));
  return absl::StrCat(html, "</ul>\n</div>\n</header>\n");
}

// The box over the picture, which is fitted into the same square.
std::string BoxOver(const Thumbnail& picture, const GalleryBox& box) {
  const auto rect = [&](absl::string_view kind) {
    return absl::StrFormat(
        "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
        "height=\"%.1f\"/>",
        kind, box.left * static_cast<float>(picture.width),
        box.top * static_cast<float>(picture.height),
        box.width * static_cast<float>(picture.width),
        box.height * static_cast<float>(picture.height));
  };
  return absl::StrCat("<svg viewBox=\"0 0 ", picture.width, " ", picture.height,
                      "\" aria-hidden=\"true\">", rect("edge"), rect("box"),
                      "</svg>");
}

std::string Moment(const GallerySpan& span) {
  std::string html =
      absl::StrCat("<div class=\"moment\"><span>", ClockTime(span.start), " – ",
                   ClockTime(span.end));
  if (span.duration <= 0) return absl::StrCat(html, "</span></div>\n");
  const auto percent = [&](double seconds) {
    return 100 * std::clamp(seconds / span.duration, 0.0, 1.0);
  };
  return absl::StrCat(
      html, " of ", ClockTime(span.duration), "</span>",
      absl::StrFormat("<div class=\"track\" aria-hidden=\"true\">"
                      "<span style=\"left:%.2f%%;width:%.2f%%\"></span>"
                      "</div></div>\n",
                      percent(span.start),
                      percent(span.end) - percent(span.start)));
}

std::string Picture(const GalleryCard& card) {
  const std::string rank =
      absl::StrCat("<span class=\"rank\">", card.rank, "</span></div>\n");
  if (card.thumbnail.has_value()) {
    return absl::StrCat(
        "<div class=\"picture\">", ImageTag(*card.thumbnail, card.title),
        card.box.has_value() ? BoxOver(*card.thumbnail, *card.box) : "", rank);
  }
  return absl::StrCat("<div class=\"picture none\">no preview", rank);
}

std::string Fields(const GalleryCard& card) {
  std::string html =
      absl::StrCat("<details><summary>Details</summary><dl>\n<dt>id</dt><dd>",
                   EscapeHtml(card.id), "</dd>\n");
  for (const auto& [key, value] : card.fields) {
    absl::StrAppend(&html, "<dt>", EscapeHtml(key), "</dt><dd>",
                    EscapeHtml(value), "</dd>\n");
  }
  return absl::StrCat(html, "</dl></details>\n");
}

std::string Probability(const GalleryCard& card) {
  if (!card.probability.has_value()) return "";
  return absl::StrFormat("<span title=\"probability\">%.0f %%</span>",
                         100 * *card.probability);
}

// Bars compare the hits of one page: the best is full.
std::string Card(const GalleryCard& card, float best_score) {
  const float share =
      best_score > 0 ? std::clamp(card.score / best_score, 0.0F, 1.0F) : 0.0F;
  return absl::StrCat(
      "<li class=\"card", card.rank == 1 ? " first" : "", "\">\n",
      Picture(card), "<div class=\"text\">\n<h2>", EscapeHtml(card.title),
      "</h2>\n", card.span.has_value() ? Moment(*card.span) : "",
      absl::StrFormat("<div class=\"score\"><span>%.3f</span>"
                      "<div class=\"track\" aria-hidden=\"true\">"
                      "<span style=\"width:%.0f%%\"></span></div>%s</div>\n",
                      card.score, 100 * share, Probability(card)),
      Fields(card), "</div>\n</li>\n");
}

std::string Cards(const GalleryPage& page) {
  if (page.cards.empty()) return "<p class=\"empty\">Nothing was found.</p>\n";
  std::string html = "<ol class=\"cards\" aria-label=\"Hits, best first\">\n";
  for (const GalleryCard& card : page.cards) {
    absl::StrAppend(&html, Card(card, page.cards.front().score));
  }
  return absl::StrCat(html, "</ol>\n");
}

}  // namespace

std::string RenderGallery(const GalleryPage& page) {
  std::string html =
      absl::StrCat(kHead, "<title>", EscapeHtml(page.query), " · ",
                   EscapeHtml(page.collection), "</title>\n", kStyle,
                   "</head>\n<body>\n", Header(page), "<main>\n");
  for (const std::string& warning : page.warnings) {
    absl::StrAppend(&html, "<p class=\"warning\" role=\"status\">",
                    EscapeHtml(warning), "</p>\n");
  }
  absl::StrAppend(&html, Cards(page),
                  "</main>\n<footer>Made by quern; the pictures are inside "
                  "this file.</footer>\n</body>\n</html>\n");
  return html;
}

}  // namespace quern::cli
