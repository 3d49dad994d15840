// quern.v1.Grounding over a real connection, with fakes below the engine.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class GroundingTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.mutable_media()->add_roots(media_.path());
    config_.mutable_models()->add_roots(media_.path());
    StartServer();
  }

  grpc::Status Regions(const v1::GroundRegionsRequest& request,
                       v1::GroundRegionsResponse* response) {
    return Call(v1::Grounding::NewStub(channel_),
                &v1::Grounding::Stub::GroundRegions, request, response);
  }
  grpc::Status Segments(const v1::GroundSegmentsRequest& request,
                        v1::GroundSegmentsResponse* response) {
    return Call(v1::Grounding::NewStub(channel_),
                &v1::Grounding::Stub::GroundSegments, request, response);
  }

  static v1::GroundRegionsRequest RegionsOf(const std::string& picture,
                                            const std::string& phrase) {
    v1::GroundRegionsRequest request;
    request.mutable_image()->set_content(picture);
    request.mutable_phrases()->add_phrases(phrase);
    return request;
  }
  static v1::GroundSegmentsRequest SegmentsOf(const std::string& video,
                                              const std::string& sentence) {
    v1::GroundSegmentsRequest request;
    request.mutable_video()->set_content(video);
    request.add_sentences(sentence);
    return request;
  }

  void ExpectRefused(const v1::GroundRegionsRequest& request,
                     grpc::StatusCode code, const std::string& text) {
    v1::GroundRegionsResponse response;
    const grpc::Status status = Regions(request, &response);
    EXPECT_EQ(status.error_code(), code) << text;
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }
  void ExpectRefused(const v1::GroundSegmentsRequest& request,
                     grpc::StatusCode code, const std::string& text) {
    v1::GroundSegmentsResponse response;
    const grpc::Status status = Segments(request, &response);
    EXPECT_EQ(status.error_code(), code) << text;
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }

  // Collection "c" with a text, a picture without and one with media that can
  // be read, one whose media lies elsewhere, and a video.
  void FillCollection() {
    std::ofstream(media_.path() + "/red.png") << "red";
    std::ofstream(media_.path() + "/red.mp4") << "red";
    ASSERT_TRUE(Create("c").ok());
    std::vector<v1::UpsertRequest> items = {TextItem("c", "text", "red")};
    for (const auto& [id, uri] :
         std::vector<std::pair<std::string, std::string>>{
             {"bare", ""}, {"kept", "red.png"}, {"foreign", "/etc/hostname"}}) {
      items.push_back(TextItem("c", id, ""));
      items.back().mutable_image()->set_content("red");
      items.back().set_media_uri(uri);
    }
    items.push_back(TextItem("c", "video", ""));
    items.back().mutable_video()->set_content("red red");
    items.back().set_media_uri("red.mp4");
    grpc::Status status;
    Upsert(items, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  TemporaryDirectory media_;
};

TEST_F(GroundingTest, GivesBoxesInSharesAndPixels) {
  v1::GroundRegionsRequest request = RegionsOf("red", "red");
  request.mutable_phrases()->add_phrases("blue");
  v1::GroundRegionsResponse response;
  const grpc::Status status = Regions(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.width(), 16);
  EXPECT_EQ(response.height(), 16);
  EXPECT_EQ(response.model().name(), "fake");
  EXPECT_FALSE(response.degraded());
  ASSERT_THAT(response.phrases(), SizeIs(2));
  for (const v1::GroundedPhrase& phrase : response.phrases()) {
    ASSERT_THAT(phrase.regions(), Not(IsEmpty()));
    // The fake model's package has no calibration.
    EXPECT_FALSE(phrase.has_presence());
    for (const v1::Region& region : phrase.regions()) {
      EXPECT_FALSE(region.has_probability());
      EXPECT_GE(region.box().left(), 0);
      EXPECT_LT(region.box().left(), region.box().right());
      EXPECT_LE(region.box().bottom(), 1);
      EXPECT_NEAR(region.pixels().left(), 16 * region.box().left(), 0.5);
      EXPECT_NEAR(region.pixels().width(),
                  16 * (region.box().right() - region.box().left()), 1);
    }
  }
  EXPECT_GT(response.phrases(0).regions(0).score(),
            response.phrases(1).regions(0).score());
}

TEST_F(GroundingTest, CropsAddTheirCosineToTheScore) {
  v1::EmbedRequest embed;
  embed.add_inputs()->mutable_image()->set_content("red");
  embed.add_inputs()->set_text("red");
  embed.add_inputs()->set_text("blue");
  v1::EmbedResponse embedded;
  ASSERT_TRUE(Call(v1::Embedding::NewStub(channel_),
                   &v1::Embedding::Stub::Embed, embed, &embedded)
                  .ok());
  // Of the picture, of which every crop is as red as all of it.
  const auto cosine = [&](int text) {
    double sum = 0;
    const auto& picture = embedded.results(0).embedding().values();
    for (int i = 0; i < picture.size(); ++i) {
      sum += double{picture[i]} * embedded.results(text).embedding().values(i);
    }
    return sum;
  };
  v1::GroundRegionsRequest request = RegionsOf("red", "red");
  request.mutable_phrases()->add_phrases("blue");
  v1::GroundRegionsResponse without;
  ASSERT_TRUE(Regions(request, &without).ok());
  request.set_crop_depth(3);
  v1::GroundRegionsResponse with;
  const grpc::Status status = Regions(request, &with);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto gain = [&](int phrase) {
    return with.phrases(phrase).regions(0).score() -
           without.phrases(phrase).regions(0).score();
  };
  EXPECT_GT(gain(0), 0);
  EXPECT_NEAR(gain(0) * cosine(2), gain(1) * cosine(1), 1e-4);
  EXPECT_TRUE(std::any_of(
      with.stages().begin(), with.stages().end(),
      [](const v1::StageTime& stage) { return stage.stage() == "crops"; }));
}

TEST_F(GroundingTest, FindsThePhrasesOfASentence) {
  v1::GroundRegionsRequest request = RegionsOf("red", "");
  request.set_sentence("A red ball lies under the blue sky.");
  v1::GroundRegionsResponse response;
  ASSERT_TRUE(Regions(request, &response).ok());
  ASSERT_THAT(response.phrases(), SizeIs(2));
  EXPECT_EQ(response.phrases(1).phrase(), "the blue sky");
  EXPECT_EQ(request.sentence().substr(
                response.phrases(1).begin(),
                response.phrases(1).end() - response.phrases(1).begin()),
            "the blue sky");
}

TEST_F(GroundingTest, TakesLongAndForeignPhrases) {
  v1::GroundRegionsResponse response;
  ASSERT_TRUE(Regions(RegionsOf("red", "雪の中の赤い犬"), &response).ok());
  EXPECT_THAT(response.phrases(), SizeIs(1));
  std::string longest;
  while (longest.size() + 4 <= 10'000) longest += "red ";
  ASSERT_TRUE(Regions(RegionsOf("red", longest), &response).ok());
  EXPECT_TRUE(response.degraded());
  EXPECT_THAT(response.degraded_reasons(0), HasSubstr("longer than the model"));
}

TEST_F(GroundingTest, RefusesBadRegionRequestsByName) {
  const auto changed =
      [](const std::function<void(v1::GroundRegionsRequest&)>& change) {
        v1::GroundRegionsRequest request = RegionsOf("red", "red");
        change(request);
        return request;
      };
  using R = v1::GroundRegionsRequest;
  const auto bad = grpc::StatusCode::INVALID_ARGUMENT;
  ExpectRefused(RegionsOf("red", ""), bad, "phrases.phrases[0]: is empty");
  ExpectRefused(RegionsOf("red", " \n"), bad, "phrases.phrases[0]: is empty");
  ExpectRefused(RegionsOf("red", std::string(10'001, 'a')), bad,
                "phrases.phrases[0]: has 10001 bytes; the limit is 10000");
  ExpectRefused(RegionsOf("green", "red"), bad, "image.content: not a picture");
  ExpectRefused(changed([](R& r) { r.clear_image(); }), bad, "image, item");
  ExpectRefused(changed([](R& r) { r.clear_phrases(); }), bad,
                "phrases, sentence");
  ExpectRefused(changed([](R& r) { r.mutable_phrases()->Clear(); }), bad,
                "there are 0; give 1 to 64");
  ExpectRefused(changed([](R& r) {
                  for (int i = 0; i < 64; ++i) {
                    r.mutable_phrases()->add_phrases("red");
                  }
                }),
                bad, "there are 65; give 1 to 64");
  ExpectRefused(changed([](R& r) { r.set_sentence("..."); }), bad,
                "sentence: has no noun phrase");
  ExpectRefused(changed([](R& r) { r.set_max_regions(0); }), bad,
                "max_regions: is 0; it must be 1 to 100");
  ExpectRefused(changed([](R& r) { r.set_nms_iou(0); }), bad, "nms_iou: is 0");
  ExpectRefused(changed([](R& r) { r.set_min_probability(1.5F); }), bad,
                "min_probability: is 1.5");
  ExpectRefused(changed([](R& r) { r.set_crop_depth(65); }), bad,
                "crop_depth: is 65");
  ExpectRefused(changed([](R& r) { r.set_model("nobody"); }),
                grpc::StatusCode::NOT_FOUND, "nobody");
  ExpectRefused(changed([](R& r) { r.set_min_probability(0.5F); }),
                grpc::StatusCode::FAILED_PRECONDITION, "has no calibration");
}

TEST_F(GroundingTest, NamesTheCapabilityThatAModelLacks) {
  v1::LoadModelRequest load;
  load.set_path(media_.path() + "/no-dense");
  std::filesystem::create_directory(load.path());
  v1::Model model;
  const grpc::Status loaded = Call(v1::Models::NewStub(channel_),
                                   &v1::Models::Stub::Load, load, &model);
  ASSERT_TRUE(loaded.ok()) << loaded.error_message();
  v1::GroundRegionsRequest request = RegionsOf("red", "red");
  request.set_model("no-dense");
  ExpectRefused(request, grpc::StatusCode::FAILED_PRECONDITION,
                "lacks the capability image.dense: use a model that has it");
}

TEST_F(GroundingTest, LooksAtStoredItemsWhoseMediaCanBeRead) {
  FillCollection();
  v1::GroundRegionsRequest request = RegionsOf("", "red");
  request.mutable_item()->set_collection("c");
  request.mutable_item()->set_id("kept");
  v1::GroundRegionsResponse response;
  const grpc::Status status = Regions(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.phrases(0).regions(), Not(IsEmpty()));
  EXPECT_TRUE(response.degraded());
  EXPECT_THAT(response.degraded_reasons(0), HasSubstr("decoded again"));

  v1::GroundSegmentsRequest moments = SegmentsOf("", "red");
  *moments.mutable_item() = request.item();
  moments.mutable_item()->set_id("video");
  v1::GroundSegmentsResponse segments;
  ASSERT_TRUE(Segments(moments, &segments).ok());
  EXPECT_TRUE(segments.degraded());

  const auto refused = grpc::StatusCode::FAILED_PRECONDITION;
  for (const auto& [id, text] :
       std::vector<std::pair<std::string, std::string>>{
           {"text", "is a text; this call looks at a picture"},
           {"video", "is a video; this call looks at a picture"},
           {"bare", "send its media along"},
           {"foreign", "below one of media.roots"}}) {
    request.mutable_item()->set_id(id);
    ExpectRefused(request, refused, text);
  }
  moments.mutable_item()->set_id("kept");
  ExpectRefused(moments, refused, "is a picture; this call looks at a video");
  request.mutable_item()->set_id("nobody");
  ExpectRefused(request, grpc::StatusCode::NOT_FOUND, "nobody");
  request.mutable_item()->set_id("");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "item.id");
  request.mutable_item()->set_collection("");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "item.collection");
}

TEST_F(GroundingTest, FindsTheStretchOfAVideo) {
  v1::GroundSegmentsRequest request =
      SegmentsOf("red red red blue blue blue blue red red", "blue");
  request.add_sentences("red");
  request.set_include_saliency(true);
  v1::GroundSegmentsResponse response;
  const grpc::Status status = Segments(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.duration().seconds(), 4);
  EXPECT_EQ(response.duration().nanos(), 500'000'000);
  ASSERT_THAT(response.sentences(), SizeIs(2));
  const v1::GroundedSentence& blue = response.sentences(0);
  ASSERT_THAT(blue.segments(), Not(IsEmpty()));
  EXPECT_EQ(blue.segments(0).span().start().seconds(), 1);
  EXPECT_EQ(blue.segments(0).span().start().nanos(), 250'000'000);
  EXPECT_EQ(blue.segments(0).span().end().seconds(), 3);
  EXPECT_EQ(blue.segments(0).span().end().nanos(), 250'000'000);
  EXPECT_THAT(blue.saliency().times(), SizeIs(9));
  EXPECT_THAT(blue.saliency().values(), SizeIs(9));
  EXPECT_GT(blue.saliency().values(4), blue.saliency().values(0));
}

TEST_F(GroundingTest, AMomentsHeadGoesBeforeTheGenerators) {
  v1::LoadModelRequest load;
  load.set_path(media_.path() + "/moments");
  std::filesystem::create_directory(load.path());
  v1::Model model;
  const grpc::Status loaded = Call(v1::Models::NewStub(channel_),
                                   &v1::Models::Stub::Load, load, &model);
  ASSERT_TRUE(loaded.ok()) << loaded.error_message();
  // Eight frames of half a second, of which the head sees four pairs.
  v1::GroundSegmentsRequest request =
      SegmentsOf("red red red red blue blue red red", "blue");
  request.set_model("moments");
  request.set_min_probability(0.7F);
  request.set_include_saliency(true);
  v1::GroundSegmentsResponse response;
  const grpc::Status status = Segments(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const v1::GroundedSentence& blue = response.sentences(0);
  ASSERT_THAT(blue.segments(), SizeIs(1));
  EXPECT_EQ(blue.segments(0).span().start().seconds(), 2);
  EXPECT_EQ(blue.segments(0).span().end().seconds(), 3);
  EXPECT_GT(blue.segments(0).probability(), 0.9F);
  EXPECT_EQ(blue.segments(0).probability(), blue.segments(0).score());
  EXPECT_EQ(blue.presence(), blue.segments(0).probability());
  ASSERT_THAT(blue.saliency().values(), SizeIs(8));
  EXPECT_EQ(blue.saliency().values(4), blue.saliency().values(5));
  EXPECT_GT(blue.saliency().values(4), blue.saliency().values(3));

  request.set_sentences(0, "nothing of this");
  ASSERT_TRUE(Segments(request, &response).ok());
  EXPECT_THAT(response.sentences(0).segments(), IsEmpty());
}

TEST_F(GroundingTest, KeepsSpansWithinShortVideos) {
  for (const char* video : {"red", "red blue"}) {
    v1::GroundSegmentsRequest request = SegmentsOf(video, "red");
    request.mutable_min_duration()->set_seconds(3600);
    v1::GroundSegmentsResponse response;
    ASSERT_TRUE(Segments(request, &response).ok());
    ASSERT_THAT(response.sentences(0).segments(), SizeIs(1));
    const v1::TimeSpan& span = response.sentences(0).segments(0).span();
    EXPECT_EQ(span.start().seconds(), 0);
    EXPECT_EQ(span.end().seconds(), response.duration().seconds());
    EXPECT_EQ(span.end().nanos(), response.duration().nanos());
    EXPECT_FALSE(response.sentences(0).has_saliency());
  }
}

TEST_F(GroundingTest, RefusesBadSegmentRequestsByName) {
  const auto bad = grpc::StatusCode::INVALID_ARGUMENT;
  ExpectRefused(SegmentsOf("red", ""), bad, "sentences[0]: is empty");
  ExpectRefused(SegmentsOf("red", std::string(10'001, 'a')), bad,
                "sentences[0]: has 10001 bytes");
  ExpectRefused(SegmentsOf("broken", "red"), bad, "damaged");
  v1::GroundSegmentsRequest request = SegmentsOf("red", "red");
  request.mutable_sampling()->set_max_frames(0);
  ExpectRefused(request, bad, "sampling.max_frames: is 0");
  request = SegmentsOf("red", "red");
  request.mutable_min_duration()->set_seconds(-1);
  ExpectRefused(request, bad, "min_duration: is negative");
  request = SegmentsOf("red", "red");
  request.set_max_segments(101);
  ExpectRefused(request, bad, "max_segments: is 101");
  request = SegmentsOf("red", "red");
  request.clear_sentences();
  ExpectRefused(request, bad, "sentences: there are 0");
  request = SegmentsOf("red", "red");
  request.clear_video();
  ExpectRefused(request, bad, "video, item");
}

}  // namespace
}  // namespace quern
