// Every kind of bad input against the real server with the real model: the
// right code, a sentence that names field, value and limit, and a server that
// goes on with nothing lost.

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/end_to_end/api.h"
#include "tests/support/pictures.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr int kDimension = 512;

class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    data_ = new TemporaryDirectory;
    server_ = new QuerndProcess(data_->path());
    ASSERT_TRUE(server_->ready()) << server_->Log();
    Api api(*server_);
    ASSERT_TRUE(api.CreateCollection("photos").ok());
    ASSERT_EQ(api.UpsertOne(ImageUpsert("photos", "kept", RedJpeg())).code(),
              0);
  }

  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Terminate(), 0) << server_->Log();
    delete server_;
    delete data_;
  }

  // Whatever a test did: the server lives, and what was stored is there.
  void TearDown() override {
    v1::SearchResponse response;
    const grpc::Status status =
        api_.Search(TextSearch("photos", "the colour red"), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_GE(response.hits_size(), 1);
    bool kept = false;
    for (const v1::Hit& hit : response.hits()) {
      kept = kept || hit.item().id() == "kept";
    }
    EXPECT_TRUE(kept);
  }

  static std::string RedJpeg() {
    return EncodeJpeg(PlainImage(64, 64, 200, 20, 20), 90).value();
  }

  void ExpectBadSearch(const v1::SearchRequest& request,
                       const std::string& field, const std::string& text) {
    v1::SearchResponse response;
    const grpc::Status status = api_.Search(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(text));
    EXPECT_EQ(ViolatedField(status), field);
  }

  void ExpectBadUpsert(const v1::UpsertRequest& request,
                       const std::string& field, const std::string& text) {
    const google::rpc::Status status = api_.UpsertOne(request);
    EXPECT_EQ(status.code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.message(), HasSubstr(text));
    EXPECT_EQ(ViolatedField(status), field);
  }

  Api api_{*server_};

 private:
  static TemporaryDirectory* data_;
  static QuerndProcess* server_;
};

TemporaryDirectory* BadInputTest::data_ = nullptr;
QuerndProcess* BadInputTest::server_ = nullptr;

TEST_F(BadInputTest, EmptyText) {
  ExpectBadSearch(TextSearch("photos", ""), "query.parts[0].text", "empty");
}

TEST_F(BadInputTest, TextOfOneMegabyte) {
  ExpectBadSearch(TextSearch("photos", std::string(1 << 20, 'x')),
                  "query.parts[0].text",
                  "has 1048576 bytes; limits.max_text_bytes is 65536");
}

TEST_F(BadInputTest, LongTextWithinTheLimitIsCutAndSaysSo) {
  v1::SearchResponse response;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "red ";
  ASSERT_TRUE(api_.Search(TextSearch("photos", text), &response).ok());
  EXPECT_TRUE(response.report().query_truncated());
}

TEST_F(BadInputTest, TextThatIsNotUtf8) {
  ExpectBadSearch(TextSearch("photos", "caf\xe9"), "query.parts[0].text",
                  "UTF-8");
}

TEST_F(BadInputTest, IdThatIsNotUtf8) {
  v1::UpsertRequest request = ImageUpsert("photos", "caf\xe9", RedJpeg());
  grpc::Status status;
  api_.Upsert({request}, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("id"), HasSubstr("UTF-8")));
}

TEST_F(BadInputTest, QueryWithoutParts) {
  v1::SearchRequest request;
  request.set_collection("photos");
  ExpectBadSearch(request, "query.parts", "give 1 to 16");
}

TEST_F(BadInputTest, PartWithoutContent) {
  v1::SearchRequest request;
  request.set_collection("photos");
  request.mutable_query()->add_parts();
  ExpectBadSearch(request, "query.parts[0]", "");
}

TEST_F(BadInputTest, TruncatedJpeg) {
  const std::string whole = RedJpeg();
  ExpectBadUpsert(
      ImageUpsert("photos", "half", whole.substr(0, whole.size() / 2)),
      "image.content", "");
}

TEST_F(BadInputTest, PictureOfOnePixelIsFine) {
  const std::string png = EncodePng(PlainImage(1, 1, 0, 0, 255)).value();
  EXPECT_EQ(api_.UpsertOne(ImageUpsert("photos", "pixel", png)).code(), 0);
}

TEST_F(BadInputTest, HeaderThatSaysThirtyThousandSquared) {
  ExpectBadUpsert(ImageUpsert("photos", "big", BlackPng(30'000, 30'000, false)),
                  "image.content", "30000");
}

TEST_F(BadInputTest, DecompressionBomb) {
  // 400 million pixels in less than half a megabyte.
  ExpectBadUpsert(ImageUpsert("photos", "bomb", BlackPng(20'000, 20'000, true)),
                  "image.content", "100000000");
}

TEST_F(BadInputTest, TextFileNamedJpg) {
  ExpectBadUpsert(ImageUpsert("photos", "notes.jpg", "Dear diary, ..."),
                  "image.content", "JPEG");
}

TEST_F(BadInputTest, NoBytes) {
  ExpectBadUpsert(ImageUpsert("photos", "none", ""), "image.content", "empty");
}

TEST_F(BadInputTest, ItemWithoutContent) {
  v1::UpsertRequest request;
  request.set_collection("photos");
  request.set_id("nothing");
  EXPECT_EQ(api_.UpsertOne(request).code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BadInputTest, UnknownCollection) {
  v1::SearchResponse response;
  const grpc::Status search =
      api_.Search(TextSearch("holidays", "red"), &response);
  EXPECT_EQ(search.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(search.error_message(), HasSubstr("holidays"));
  EXPECT_EQ(api_.UpsertOne(ImageUpsert("holidays", "a", RedJpeg())).code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(BadInputTest, StreamWithoutACollection) {
  grpc::Status status;
  api_.Upsert({ImageUpsert("", "a", RedJpeg())}, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status), "collection");
}

TEST_F(BadInputTest, CollectionNamesThatCouldBePaths) {
  for (const char* name :
       {"", "..", "a/b", "Photos", "caf\u00e9", " a", "-a"}) {
    const grpc::Status status = api_.CreateCollection(name);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_EQ(ViolatedField(status), "collection.name");
  }
  EXPECT_EQ(api_.CreateCollection(std::string(64, 'a')).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(api_.CreateCollection("photos").error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(BadInputTest, WrongModelFingerprint) {
  v1::UpsertRequest request =
      EmbeddingUpsert("photos", "foreign", std::vector<float>(kDimension, 1));
  request.set_model_fingerprint("0123456789abcdef");
  const google::rpc::Status status = api_.UpsertOne(request);
  EXPECT_EQ(status.code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.message(), HasSubstr("0123456789abcdef"));
}

TEST_F(BadInputTest, WrongDimension) {
  const std::vector<float> short_vector(kDimension - 1, 1);
  ExpectBadUpsert(EmbeddingUpsert("photos", "short", short_vector), "embedding",
                  "has 511 values; the collection's dimension is 512");
  ExpectBadSearch(EmbeddingSearch("photos", short_vector),
                  "query.parts[0].embedding", "511");
}

TEST_F(BadInputTest, NotANumberAndInfinity) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::infinity()}) {
    std::vector<float> vector(kDimension, 1);
    vector[7] = bad;
    ExpectBadUpsert(EmbeddingUpsert("photos", "nan", vector), "embedding",
                    "value 7");
    ExpectBadSearch(EmbeddingSearch("photos", vector),
                    "query.parts[0].embedding", "value 7");
  }
}

TEST_F(BadInputTest, ZeroVector) {
  const std::vector<float> zeros(kDimension, 0);
  ExpectBadUpsert(EmbeddingUpsert("photos", "zero", zeros), "embedding",
                  "zero");
  ExpectBadSearch(EmbeddingSearch("photos", zeros), "query.parts[0].embedding",
                  "zero");
}

TEST_F(BadInputTest, EqualIdsInOneStreamTheLaterWins) {
  std::vector<float> first(kDimension, 0), second(kDimension, 0);
  first[0] = second[1] = 1;
  grpc::Status status;
  ASSERT_TRUE(api_.CreateCollection("twice", kDimension).ok());
  const std::vector<v1::UpsertResponse> responses =
      api_.Upsert({EmbeddingUpsert("twice", "same", first),
                   EmbeddingUpsert("twice", "same", second)},
                  &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(responses, SizeIs(2));
  EXPECT_TRUE(responses[0].created());
  EXPECT_FALSE(responses[1].created());
  v1::SearchResponse found;
  ASSERT_TRUE(api_.Search(EmbeddingSearch("twice", second), &found).ok());
  ASSERT_EQ(found.hits_size(), 1);
  EXPECT_FLOAT_EQ(found.hits(0).score(), 1);
}

TEST_F(BadInputTest, IdsOfZeroAndOfSixHundredBytes) {
  ExpectBadUpsert(ImageUpsert("photos", "", RedJpeg()), "id",
                  "has 0 bytes; it must have 1 to 512");
  ExpectBadUpsert(ImageUpsert("photos", std::string(600, 'a'), RedJpeg()), "id",
                  "has 600 bytes; it must have 1 to 512");
}

TEST_F(BadInputTest, OneBadItemFailsAlone) {
  grpc::Status status;
  const std::vector<v1::UpsertResponse> responses =
      api_.Upsert({ImageUpsert("photos", "good-1", RedJpeg()),
                   ImageUpsert("photos", "bad", "nonsense"),
                   ImageUpsert("photos", "good-2", RedJpeg())},
                  &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(responses, SizeIs(3));
  EXPECT_EQ(responses[0].status().code(), 0);
  EXPECT_EQ(responses[1].status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(responses[1].index(), 1);
  EXPECT_EQ(responses[1].id(), "bad");
  EXPECT_EQ(responses[2].status().code(), 0);
}

TEST_F(BadInputTest, PageSizes) {
  for (int k : {0, -1, 1'000'000}) {
    v1::SearchRequest request = TextSearch("photos", "red");
    request.set_page_size(k);
    ExpectBadSearch(request, "page_size",
                    absl::StrCat("is ", k, "; it must be 1 to 10000"));
  }
}

TEST_F(BadInputTest, MessageOverTheLimit) {
  v1::SearchRequest request;
  request.set_collection("photos");
  request.mutable_query()->add_parts()->mutable_image()->set_content(
      std::string(65 << 20, 'x'));
  v1::SearchResponse response;
  EXPECT_EQ(api_.Search(request, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(BadInputTest, PayloadOverTheLimit) {
  v1::UpsertRequest request = ImageUpsert("photos", "fat", RedJpeg());
  (*request.mutable_payload()->mutable_fields())["x"].set_string_value(
      std::string(70'000, 'x'));
  ExpectBadUpsert(request, "payload", "limits.max_payload_bytes is 65536");
}

TEST_F(BadInputTest, WhatIsNotThereYetIsNamedAndNotIgnored) {
  v1::SearchRequest request = TextSearch("photos", "red");
  request.mutable_category()->set_taxonomy("animals");
  v1::SearchResponse response;
  const grpc::Status status = api_.Search(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("category"));
}

TEST_F(BadInputTest, EmbedReportsEachInputAndFailsOnlyWhenAllDo) {
  v1::EmbedRequest request;
  request.add_inputs()->set_text("a red apple");
  request.add_inputs()->set_text("");
  v1::EmbedResponse response;
  ASSERT_TRUE(api_.Embed(request, &response).ok());
  ASSERT_EQ(response.results_size(), 2);
  EXPECT_EQ(response.results(0).status().code(), 0);
  EXPECT_EQ(response.results(0).embedding().values_size(), kDimension);
  EXPECT_EQ(response.results(1).status().code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  v1::EmbedRequest bad;
  bad.add_inputs()->set_text("");
  const grpc::Status status = api_.Embed(bad, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status), "inputs[0].text");
  EXPECT_EQ(api_.Embed(v1::EmbedRequest(), &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

std::string Clip(const std::string& name) {
  std::ifstream file("tests/data/videos/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

v1::EmbedRequest EmbedVideo(const std::string& bytes) {
  v1::EmbedRequest request;
  request.add_inputs()->mutable_video()->set_content(bytes);
  request.add_outputs(v1::EMBEDDING_OUTPUT_GLOBAL);
  request.add_outputs(v1::EMBEDDING_OUTPUT_DENSE);
  return request;
}

TEST_F(BadInputTest, VideosThatCannotBeUsed) {
  const std::vector<std::pair<std::string, std::string>> reasons = {
      {Clip("no_frames.mp4"), ""},
      {Clip("audio_only.mp4"), ""},
      {Clip("no_frame_decodes.mp4"), ""},
      {Clip("header_16000.mp4"), "16000"},
      {Clip("ten_hours.mp4"), "4h"},
      {Clip("h264.mp4").substr(0, 40), ""},
      {"not a video", ""},
      {RedJpeg(), ""}};
  for (const auto& [bytes, reason] : reasons) {
    v1::EmbedResponse response;
    const grpc::Status status = api_.Embed(EmbedVideo(bytes), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(reason));
    EXPECT_EQ(ViolatedField(status), "inputs[0].video.content");
  }
}

TEST_F(BadInputTest, DamagedVideosAreUsedAsFarAsTheyGo) {
  for (const char* name : {"corrupt_middle.mp4", "cut.mkv", "one_frame.mp4"}) {
    v1::EmbedResponse response;
    const grpc::Status status = api_.Embed(EmbedVideo(Clip(name)), &response);
    ASSERT_TRUE(status.ok()) << name << ": " << status.error_message();
    const v1::EmbedResult& result = response.results(0);
    EXPECT_GE(result.dense().times_size(), 1) << name;
    EXPECT_EQ(result.dense().values_size(),
              result.dense().times_size() * result.embedding().values_size());
  }
}

}  // namespace
}  // namespace quern
