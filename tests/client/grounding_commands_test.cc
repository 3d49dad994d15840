// quern ground and quern moments, whole command lines against a server in this
// process that answers what the tests below expect.

#include <fstream>
#include <iterator>
#include <sstream>
#include <stop_token>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/app.h"
#include "client/cli/moments_page.h"
#include "engine/media/image_writer.h"
#include "engine/media/vips_image_decoder.h"
#include "quern/v1/grounding.grpc.pb.h"
#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// Finds everything but unicorns: in pictures at 4, 6 with 20 x 10 pixels, in
// videos of two seconds from 0.5 to 1.5 seconds.
class FakeGrounding final : public v1::Grounding::Service {
 public:
  grpc::Status GroundRegions(grpc::ServerContext*,
                             const v1::GroundRegionsRequest* request,
                             v1::GroundRegionsResponse* response) override {
    response->set_width(40);
    response->set_height(30);
    response->mutable_model()->set_name("fake");
    std::vector<std::string> phrases(request->phrases().phrases().begin(),
                                     request->phrases().phrases().end());
    if (!request->sentence().empty()) phrases = {request->sentence()};
    for (const std::string& text : phrases) {
      v1::GroundedPhrase& phrase = *response->add_phrases();
      phrase.set_phrase(text);
      const bool is_there = text != "a unicorn";
      phrase.set_presence(is_there ? 0.75F : 0.125F);
      if (!is_there) continue;
      v1::Region& region = *phrase.add_regions();
      region.set_score(0.5);
      region.set_probability(0.75);
      region.mutable_pixels()->set_left(4);
      region.mutable_pixels()->set_top(6);
      region.mutable_pixels()->set_width(20);
      region.mutable_pixels()->set_height(10);
    }
    return grpc::Status::OK;
  }

  grpc::Status GroundSegments(grpc::ServerContext*,
                              const v1::GroundSegmentsRequest* request,
                              v1::GroundSegmentsResponse* response) override {
    response->mutable_duration()->set_seconds(2);
    for (const std::string& text : request->sentences()) {
      v1::GroundedSentence& sentence = *response->add_sentences();
      sentence.set_sentence(text);
      for (int i = 0; i < 4; ++i) {
        auto& time = *sentence.mutable_saliency()->add_times();
        time.set_seconds(i / 2);
        time.set_nanos(i % 2 * 500'000'000);
        const bool is_high = i == 1 || i == 2;
        sentence.mutable_saliency()->add_values(is_high ? 0.5F : 0.25F);
      }
      if (text == "a unicorn") continue;
      v1::Segment& segment = *sentence.add_segments();
      segment.set_score(0.5);
      segment.mutable_span()->mutable_start()->set_nanos(500'000'000);
      segment.mutable_span()->mutable_end()->set_seconds(1);
      segment.mutable_span()->mutable_end()->set_nanos(500'000'000);
    }
    return grpc::Status::OK;
  }
};

class GroundingCommandsTest : public testing::Test {
 protected:
  GroundingCommandsTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    Image image{.width = 40, .height = 30};
    image.rgb.resize(3 * 40 * 30, 255);
    folder_.Write("white.png", *EncodePng(image));
  }
  ~GroundingCommandsTest() override {
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  ExitCode Run(std::vector<std::string> arguments) {
    out_.str("");
    err_.str("");
    arguments.insert(arguments.begin(),
                     {"--address", "127.0.0.1:" + std::to_string(port_)});
    Console console{.out = out_,
                    .err = err_,
                    .getenv = [](const std::string&) { return std::nullopt; },
                    .program_folder = "/nowhere",
                    .now = absl::Now,
                    .interrupt = interrupt_.get_token(),
                    .abort = abort_.get_token()};
    return RunCli(arguments, console);
  }

  std::string File(const std::string& name) const {
    return (folder_.path() / name).string();
  }
  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  FakeGrounding service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  TempFolder folder_;
  std::stop_source interrupt_;
  std::stop_source abort_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(GroundingCommandsTest, GroundPrintsATable) {
  ASSERT_EQ(Run({"ground", File("white.png"), "a dog", "a unicorn"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("a dog         4    6     20      10"));
  EXPECT_THAT(out_.str(), HasSubstr("75 %"));
  EXPECT_THAT(out_.str(), HasSubstr("a unicorn     -    -      -       -"));
}

TEST_F(GroundingCommandsTest, GroundPrintsJson) {
  ASSERT_EQ(Run({"ground", File("white.png"), "--sentence", "a dog", "--json"}),
            ExitCode::kOk)
      << err_.str();
  const json output = json::parse(out_.str());
  EXPECT_EQ(output["width"], 40);
  EXPECT_EQ(output["phrases"][0]["regions"][0]["height"], 10);
  EXPECT_EQ(output["phrases"][0]["regions"][0]["probability"], 0.75);
}

TEST_F(GroundingCommandsTest, GroundDrawsTheBoxes) {
  ASSERT_EQ(
      Run({"ground", File("white.png"), "a dog", "--out", File("out.png")}),
      ExitCode::kOk)
      << err_.str();
  const auto decoder = VipsImageDecoder::Create({});
  ASSERT_TRUE(decoder.ok());
  const auto drawn = (*decoder)->Decode(Contents(File("out.png")));
  ASSERT_TRUE(drawn.ok()) << drawn.status();
  ASSERT_EQ(drawn->width, 40);
  const auto is_white = [&](int x, int y) {
    const uint8_t* pixel = &drawn->rgb[3 * (y * 40 + x)];
    return pixel[0] == 255 && pixel[1] == 255 && pixel[2] == 255;
  };
  // The frame is two pixels wide, inside of the box.
  EXPECT_FALSE(is_white(4, 6));
  EXPECT_FALSE(is_white(23, 15));
  EXPECT_FALSE(is_white(5, 10));
  EXPECT_TRUE(is_white(6, 8));
  EXPECT_TRUE(is_white(3, 6));
  EXPECT_TRUE(is_white(24, 15));
  EXPECT_THAT(out_.str(), HasSubstr("red"));
}

TEST_F(GroundingCommandsTest, MomentsDrawsATimeline) {
  folder_.Write("video.mp4", "not looked at without --html");
  ASSERT_EQ(Run({"moments", File("video.mp4"), "a dog", "a unicorn"}),
            ExitCode::kOk)
      << err_.str();
  std::string low, high, mark;
  for (int i = 0; i < 16; ++i) low += "▁";
  for (int i = 0; i < 32; ++i) high += "█";
  for (int i = 0; i < 32; ++i) mark += "━";
  EXPECT_THAT(out_.str(), HasSubstr("a dog\n" + low + high + low + "\n" +
                                    std::string(16, ' ') + mark));
  EXPECT_THAT(out_.str(), HasSubstr("0:00.5  0:01.5  0.500"));
  EXPECT_THAT(out_.str(), HasSubstr("Not in this video."));
}

TEST_F(GroundingCommandsTest, MomentsWritesAPage) {
  const std::string video = Contents("tests/data/videos/av1.mp4");
  ASSERT_FALSE(video.empty());
  folder_.Write("video.mp4", video);
  ASSERT_EQ(Run({"moments", File("video.mp4"), "<b>a dog", "--html",
                 File("page.html"), "--json"}),
            ExitCode::kOk)
      << err_.str();
  const json output = json::parse(out_.str());
  EXPECT_EQ(output["sentences"][0]["segments"][0]["end"], 1.5);
  EXPECT_EQ(output["sentences"][0]["saliency"].size(), 4);
  const std::string page = Contents(File("page.html"));
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;a dog"));
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_THAT(page, HasSubstr("data-start=\"0.500\""));
  EXPECT_THAT(page, HasSubstr("left:25.000%;width:50.000%"));
  EXPECT_THAT(page, HasSubstr("<video controls src=\"data:video/mp4;base64,"));
  EXPECT_THAT(page, HasSubstr("<img alt=\"\" src=\"data:image/jpeg;base64,"));
}

TEST_F(GroundingCommandsTest, WrongUsageIsTwo) {
  const std::string picture = File("white.png");
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{
           {"ground"},
           {"ground", picture},
           {"ground", "/no/such/file", "a dog"},
           {"ground", picture, "a dog", "--sentence", "a dog"},
           {"ground", picture, "a dog", "-k", "101"},
           {"ground", picture, "a dog", "--min-probability", "2"},
           {"ground", picture, "\xff"},
           {"moments", picture},
           {"moments", "/no/such/file", "a dog"},
           {"moments", picture, "a dog", "--fps", "0"}}) {
    EXPECT_EQ(Run(arguments), ExitCode::kUsage)
        << testing::PrintToString(arguments);
  }
}

TEST_F(GroundingCommandsTest, AFileThatCannotBeWrittenIsSaid) {
  EXPECT_EQ(Run({"ground", File("white.png"), "a dog", "--out",
                 File("no/folder.png")}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("cannot write"));
}

TEST(ClockTimeTest, RoundsToTenths) {
  EXPECT_EQ(ClockTime(0), "0:00.0");
  EXPECT_EQ(ClockTime(62.46), "1:02.5");
  EXPECT_EQ(ClockTime(59.96), "1:00.0");
  EXPECT_EQ(ClockTime(3600), "60:00.0");
}

}  // namespace
}  // namespace quern::cli
