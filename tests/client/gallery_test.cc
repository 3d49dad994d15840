#include "client/cli/gallery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/text.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kHostile[] =
    "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&\xff";

// A page with something hostile in every place that takes text.
GalleryPage HostilePage() {
  GalleryPage page;
  page.query = kHostile;
  page.query_picture = Thumbnail{"jpeg", 4, 3};
  page.collection = kHostile;
  page.model = kHostile;
  page.stages = {{kHostile, 1.5}};
  page.warnings = {kHostile};
  page.cards = {{1,
                 .5F,
                 kHostile,
                 kHostile,
                 Thumbnail{"jpeg", 4, 3},
                 {{kHostile, kHostile}}},
                {2, .25F, kHostile, kHostile, std::nullopt, {}}};
  return page;
}

TEST(GalleryTest, NothingInThePageBecomesMarkup) {
  const std::string html = RenderGallery(HostilePage());
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img src=x")));
  EXPECT_THAT(html, Not(HasSubstr("onerror='")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_TRUE(IsValidUtf8(html));
}

TEST(GalleryTest, LoadsNothing) {
  const std::string html = RenderGallery(HostilePage());
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  for (const char* outside : {"http://", "https://", "src=\"/", "url(",
                              "@import", "<link", "<iframe"}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
}

TEST(GalleryTest, ShowsHitsInOrderWithTheirPictures) {
  GalleryPage page;
  page.query = "a dog";
  page.cards = {{1, .5F, "First", "a.jpg", Thumbnail{"x", 320, 200}, {}},
                {2, .25F, "Second", "b.jpg", std::nullopt, {{"k", "v"}}}};
  const std::string html = RenderGallery(page);
  EXPECT_LT(html.find("First"), html.find("Second"));
  EXPECT_THAT(html, HasSubstr("<img src=\"data:image/jpeg;base64,eA==\" "
                              "width=\"320\" height=\"200\" alt=\"First\">"));
  EXPECT_THAT(html, HasSubstr("no preview"));
  EXPECT_THAT(html, HasSubstr("width:100%"));
  EXPECT_THAT(html, HasSubstr("width:50%"));
  EXPECT_THAT(html, HasSubstr("<dt>k</dt><dd>v</dd>"));
}

TEST(GalleryTest, DrawsBoxesOverPicturesAndMarksSpans) {
  GalleryPage page;
  page.cards = {{.rank = 1,
                 .thumbnail = Thumbnail{"x", 320, 200},
                 .probability = 0.75F,
                 .box = GalleryBox{0.25F, 0.5F, 0.5F, 0.25F}},
                {.rank = 2,
                 .span = GallerySpan{.start = 5, .end = 62.5, .duration = 100}},
                {.rank = 3, .span = GallerySpan{.start = 5, .end = 6}},
                {.rank = 4, .box = GalleryBox{0, 0, 1, 1}}};
  const std::string html = RenderGallery(page);
  EXPECT_THAT(html, HasSubstr("<svg viewBox=\"0 0 320 200\""));
  EXPECT_THAT(html, HasSubstr("<rect class=\"box\" x=\"80.0\" y=\"100.0\" "
                              "width=\"160.0\" height=\"50.0\"/>"));
  EXPECT_THAT(html, HasSubstr("75 %"));
  EXPECT_THAT(html, HasSubstr("0:05.0 – 1:02.5 of 1:40.0"));
  EXPECT_THAT(html, HasSubstr("left:5.00%;width:57.50%"));
  EXPECT_THAT(html, HasSubstr("0:05.0 – 0:06.0</span></div>"));
  // Where there is no picture, there is nothing to draw on.
  EXPECT_EQ(html.find("<svg"), html.rfind("<svg"));
}

TEST(GalleryTest, SaysWhenNothingWasFound) {
  EXPECT_THAT(RenderGallery({}), HasSubstr("Nothing was found."));
}

TEST(GalleryTest, NegativeScoresHaveEmptyBars) {
  GalleryPage page;
  page.cards = {{1, -.5F, "a", "a", std::nullopt, {}}};
  EXPECT_THAT(RenderGallery(page), HasSubstr("width:0%"));
}

}  // namespace
}  // namespace quern::cli
