// quern search --regions and --moments, whole command lines against a server in
// this process.

#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <stop_token>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/app.h"
#include "client/cli/place.h"
#include "client/cli/thumbnail.h"
#include "tests/client/fake_server.h"
#include "tests/client/temp_folder.h"
#include "tests/client/tiny_gif.h"

namespace quern::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class PartSearchCommandTest : public testing::Test {
 protected:
  ExitCode Run(std::vector<std::string> arguments) {
    out_.str("");
    err_.str("");
    arguments.insert(arguments.begin(), {"--address", server_.address()});
    Console console{.out = out_,
                    .err = err_,
                    .getenv = [](const std::string&) { return std::nullopt; },
                    .program_folder = "/nowhere",
                    .now = absl::Now,
                    .interrupt = interrupt_.get_token(),
                    .abort = abort_.get_token()};
    return RunCli(arguments, console);
  }

  void Index() {
    folder_.Write("cat.jpg", "black cat sofa");
    folder_.Write("dog.jpg", "brown dog snow");
    ASSERT_EQ(Run({"index", folder_.path().string()}), ExitCode::kOk)
        << err_.str();
  }

  FakeServer server_;
  TempFolder folder_;
  std::stop_source interrupt_;
  std::stop_source abort_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(PartSearchCommandTest, RegionsAreInPixels) {
  Index();
  ASSERT_EQ(Run({"search", "--regions", "dog"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("#  score  probability  region       id"));
  EXPECT_THAT(out_.str(),
              HasSubstr("1  0.577         75 %  10,10 20x10  dog.jpg"));
  EXPECT_THAT(out_.str(), HasSubstr("cat.jpg"));
  ASSERT_EQ(Run({"search", "dog", "--regions", "--min-probability", "0.5"}),
            ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("dog.jpg"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("cat.jpg")));
  ASSERT_EQ(Run({"search", "unicorn", "--regions", "--min-probability", "0.5"}),
            ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Nothing was found"));
}

TEST_F(PartSearchCommandTest, MomentsAreInMinutesAndSeconds) {
  Index();
  ASSERT_EQ(Run({"search", "--moments", "dog"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("0:00.5-0:01.5  dog.jpg"));
}

TEST_F(PartSearchCommandTest, JsonHasThePlaces) {
  Index();
  ASSERT_EQ(Run({"search", "--regions", "dog", "--json"}), ExitCode::kOk);
  const json region = json::parse(out_.str())["hits"][0];
  EXPECT_EQ(region["id"], "dog.jpg");
  EXPECT_EQ(region["probability"], 0.75);
  EXPECT_EQ(region["evidence"][0]["probability"], 0.75);
  EXPECT_EQ(region["evidence"][0]["box"], json({0.25, 0.5, 0.75, 1.0}));
  EXPECT_EQ(region["evidence"][0]["pixels"],
            json({{"left", 10}, {"top", 10}, {"width", 20}, {"height", 10}}));
  ASSERT_EQ(Run({"search", "--moments", "dog", "--json"}), ExitCode::kOk);
  EXPECT_EQ(json::parse(out_.str())["hits"][0]["evidence"][0]["span_ms"],
            json({500.0, 1500.0}));
}

TEST_F(PartSearchCommandTest, TheGalleryShowsBoxesAndSpans) {
  folder_.Write("tiny.gif", TinyGif());
  ASSERT_EQ(Run({"index", folder_.path().string()}), ExitCode::kOk);
  const TempFolder other;
  const std::string page = (other.path() / "page.html").string();
  ASSERT_EQ(Run({"search", "--regions", "dog", "--html", page}), ExitCode::kOk);
  EXPECT_THAT(other.Read("page.html"), HasSubstr("<rect class=\"box\""));
  ASSERT_EQ(Run({"search", "--moments", "dog", "--html", page}), ExitCode::kOk);
  EXPECT_THAT(other.Read("page.html"), HasSubstr("left:25.00%;width:50.00%"));
}

TEST_F(PartSearchCommandTest, WrongUsageIsTwo) {
  Index();
  const std::string picture = (folder_.path() / "dog.jpg").string();
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{
           {"search", "--regions"},
           {"search", "--regions", "--image", picture},
           {"search", "--regions", "--moments", "dog"},
           {"search", "--regions", "dog", "--min-probability", "2"},
           {"search", "dog", "--min-probability", "0.5"}}) {
    EXPECT_EQ(Run(arguments), ExitCode::kUsage)
        << testing::PrintToString(arguments);
  }
}

TEST(PlaceTest, BoxesAreNeverEmptyAndNeverOutside) {
  v1::Box box;
  box.set_left(1);
  box.set_right(1);
  box.set_top(0.5F);
  box.set_bottom(0.5F);
  const v1::PixelBox pixels = ToPixels(box, 10, 10);
  EXPECT_EQ(pixels.left(), 9);
  EXPECT_EQ(pixels.width(), 1);
  EXPECT_EQ(pixels.top(), 5);
  EXPECT_EQ(pixels.height(), 1);
}

TEST(PlaceTest, SaysWhatIsKnown) {
  v1::Hit hit;
  EXPECT_EQ(PlaceText(hit), "-");
  v1::Evidence& evidence = *hit.add_evidence();
  EXPECT_EQ(PlaceText(hit), "-");
  evidence.mutable_box()->set_left(0.25F);
  evidence.mutable_box()->set_right(1);
  evidence.mutable_box()->set_bottom(0.5F);
  EXPECT_EQ(PlaceText(hit), "25%,0% 75%x50%");
  EXPECT_FALSE(PixelsOf(hit).has_value());
}

TEST(VideoThumbnailTest, ShowsTheFrameOfATime) {
  const std::string video = "tests/data/videos/av1.mp4";
  const auto first = VideoThumbnail(video);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto later = VideoThumbnail(video, absl::Milliseconds(500));
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_NE(first->jpeg, later->jpeg);
  // Behind the end there is no frame: the first one stands for it.
  const auto behind = VideoThumbnail(video, absl::Hours(1));
  ASSERT_TRUE(behind.ok()) << behind.status();
  EXPECT_EQ(behind->jpeg, first->jpeg);
}

}  // namespace
}  // namespace quern::cli
