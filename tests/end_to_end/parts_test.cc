// What is kept of pictures and videos, and searches that use it, with the real
// server and the real model.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "quern/v1/grounding.grpc.pb.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

std::string ReadSample(const std::string& name) {
  const std::string path =
      absl::StrCat(std::getenv("QUERN_CACHE"), "/samples/", name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// The first picture of a folder of samples, in byte order.
std::string FirstPicture(const std::string& folder) {
  std::string first;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(absl::StrCat(
           std::getenv("QUERN_CACHE"), "/samples/pictures/", folder))) {
    const std::string path = entry.path().string();
    if (entry.path().extension() == ".png" && (first.empty() || path < first)) {
      first = path;
    }
  }
  std::ifstream file(first, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

v1::SearchRequest Reranked(const std::string& text, v1::Rerank::Method method) {
  v1::SearchRequest request = TextSearch("parts", text);
  request.mutable_rerank()->set_method(method);
  return request;
}

TEST(PartsTest, AreKeptOverARestartAndRerankedBy) {
  TemporaryDirectory data;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    v1::CreateCollectionRequest create;
    create.mutable_collection()->set_name("parts");
    v1::PartsConfig& parts = *create.mutable_collection()->mutable_parts();
    parts.set_dense(v1::PartsConfig::DENSE_7X7);
    parts.set_max_frames(8);
    grpc::ClientContext context;
    Api::SetDeadline(context);
    v1::Collection created;
    ASSERT_TRUE(v1::Collections::NewStub(api.channel())
                    ->Create(&context, create, &created)
                    .ok());
    for (const char* folder : {"animals", "vehicles", "food"}) {
      ASSERT_EQ(
          api.UpsertOne(ImageUpsert("parts", folder, FirstPicture(folder)))
              .code(),
          0);
    }
    v1::UpsertRequest video;
    video.set_collection("parts");
    video.set_id("video");
    video.mutable_video()->set_content(ReadSample("videos/bigbuckbunny.mp4"));
    const auto status = api.UpsertOne(video);
    ASSERT_EQ(status.code(), 0) << status.message();
    EXPECT_EQ(server.Terminate(), 0) << server.Log();
  }
  QuerndProcess server(data.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  Api api(server);
  v1::SearchResponse response;
  ASSERT_TRUE(
      api.Search(Reranked("a white rabbit", v1::Rerank::METHOD_UNSPECIFIED),
                 &response)
          .ok());
  ASSERT_EQ(response.hits_size(), 4);
  EXPECT_FALSE(response.report().degraded());
  for (const v1::Hit& hit : response.hits()) {
    ASSERT_EQ(hit.stage_scores_size(), 2) << hit.item().id();
    EXPECT_EQ(hit.stage_scores(1).stage(), "best_part");
    const v1::PartsInfo& parts = hit.item().parts();
    EXPECT_GT(parts.width(), 0);
    if (hit.item().id() == "video") {
      EXPECT_EQ(parts.frame_count(), 8);
      EXPECT_GT(parts.duration().seconds(), 0);
      EXPECT_TRUE(hit.evidence(0).has_span());
    } else {
      EXPECT_EQ(parts.grid_height(), 7);
      EXPECT_EQ(parts.grid_width(), 7);
      EXPECT_TRUE(hit.evidence(0).has_box());
    }
  }

  // Grounding looks at what is kept: the items have no media that it could
  // read.
  const auto grounding = v1::Grounding::NewStub(api.channel());
  v1::GroundRegionsRequest regions;
  regions.mutable_item()->set_collection("parts");
  regions.mutable_item()->set_id("food");
  regions.mutable_phrases()->add_phrases("food");
  regions.set_min_probability(0);
  v1::GroundRegionsResponse grounded;
  grpc::ClientContext regions_context;
  Api::SetDeadline(regions_context);
  ASSERT_TRUE(
      grounding->GroundRegions(&regions_context, regions, &grounded).ok());
  EXPECT_FALSE(grounded.degraded());
  EXPECT_GT(grounded.width(), 0);
  ASSERT_GT(grounded.phrases(0).regions_size(), 0);
  EXPECT_GT(grounded.phrases(0).regions(0).pixels().width(), 0);

  v1::GroundSegmentsRequest segments;
  segments.mutable_item()->set_collection("parts");
  segments.mutable_item()->set_id("video");
  segments.add_sentences("a white rabbit");
  segments.set_min_probability(0);
  segments.set_include_saliency(true);
  v1::GroundSegmentsResponse moments;
  grpc::ClientContext segments_context;
  Api::SetDeadline(segments_context);
  ASSERT_TRUE(
      grounding->GroundSegments(&segments_context, segments, &moments).ok());
  EXPECT_FALSE(moments.degraded());
  EXPECT_EQ(moments.sentences(0).saliency().values_size(), 8);
  EXPECT_GT(moments.sentences(0).segments_size(), 0);

  // The default model has no vectors of tokens, and no match head.
  for (const auto& [method, capability] :
       {std::pair(v1::Rerank::METHOD_LATE_INTERACTION, "text.tokens"),
        std::pair(v1::Rerank::METHOD_MATCH, "match")}) {
    const grpc::Status status =
        api.Search(Reranked("a rabbit", method), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr(capability));
  }
}

}  // namespace
}  // namespace quern
