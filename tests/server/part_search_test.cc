// Searches for regions and segments over a real connection, with fakes below
// the engine.

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class PartSearchTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.mutable_models()->add_roots(packages_.path());
    StartServer();
    v1::Collection collection;
    collection.set_name("c");
    collection.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
    ASSERT_TRUE(Create(collection).ok());
    std::vector<v1::UpsertRequest> items = {TextItem("c", "text", "red")};
    for (const char* color : {"red", "blue"}) {
      items.push_back(TextItem("c", color, ""));
      items.back().mutable_image()->set_content(color);
    }
    items.push_back(TextItem("c", "video", ""));
    items.back().mutable_video()->set_content(
        "red red red blue blue blue blue red red");
    grpc::Status status;
    for (const v1::UpsertResponse& response : Upsert(items, &status)) {
      ASSERT_EQ(response.status().code(), 0) << response.status().message();
    }
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  static v1::SearchRequest For(v1::Granularity granularity,
                               const std::string& text = "blue") {
    v1::SearchRequest request = TextSearch("c", text);
    request.set_granularity(granularity);
    return request;
  }

  void ExpectRefused(const v1::SearchRequest& request, grpc::StatusCode code,
                     const std::string& field, const std::string& text) {
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    EXPECT_EQ(status.error_code(), code) << text;
    EXPECT_THAT(status.error_message(), HasSubstr(text));
    EXPECT_EQ(ViolatedField(status.error_details()), field) << text;
  }

  TemporaryDirectory packages_;
};

TEST_F(PartSearchTest, ARegionIsAHit) {
  v1::SearchRequest request = For(v1::GRANULARITY_REGION);
  request.set_explain(true);
  request.mutable_read_mask()->add_paths("id");
  request.mutable_read_mask()->add_paths("parts");
  v1::SearchResponse response;
  const grpc::Status status = Search(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.report().degraded());
  EXPECT_THAT(response.report().explanation(), HasSubstr("Looked into 2 of 2"));
  std::vector<std::string> stages;
  for (const v1::StageTime& stage : response.report().stages()) {
    stages.push_back(stage.stage());
  }
  EXPECT_THAT(stages, Contains("ground"));
  ASSERT_GE(response.hits_size(), 2);
  EXPECT_EQ(response.hits(0).item().id(), "blue");
  for (const v1::Hit& hit : response.hits()) {
    ASSERT_THAT(hit.evidence(), SizeIs(1));
    EXPECT_LT(hit.evidence(0).box().left(), hit.evidence(0).box().right());
    EXPECT_LE(hit.evidence(0).box().bottom(), 1);
    EXPECT_EQ(hit.item().parts().width(), 16);
    EXPECT_FALSE(hit.item().has_create_time());
    ASSERT_THAT(hit.stage_scores(), SizeIs(2));
    EXPECT_EQ(hit.stage_scores(1).stage(), "ground");
    // The fake model's package has no calibration.
    EXPECT_FALSE(hit.has_probability());
  }
}

TEST_F(PartSearchTest, ASegmentIsAHit) {
  v1::SearchResponse response;
  ASSERT_TRUE(Search(For(v1::GRANULARITY_SEGMENT), &response).ok());
  ASSERT_GE(response.hits_size(), 1);
  const v1::Hit& hit = response.hits(0);
  EXPECT_EQ(hit.item().id(), "video");
  ASSERT_THAT(hit.evidence(), SizeIs(1));
  EXPECT_EQ(hit.evidence(0).span().start().seconds(), 1);
  EXPECT_EQ(hit.evidence(0).span().start().nanos(), 250'000'000);
  EXPECT_EQ(hit.evidence(0).span().end().seconds(), 3);
}

// Of a model whose package has one.
TEST_F(PartSearchTest, AMomentsHeadGoesBeforeTheGenerators) {
  v1::LoadModelRequest load;
  load.set_path(packages_.path() + "/moments");
  std::filesystem::create_directory(load.path());
  v1::Model model;
  ASSERT_TRUE(
      Call(v1::Models::NewStub(channel_), &v1::Models::Stub::Load, load, &model)
          .ok());
  v1::Collection collection;
  collection.set_name("m");
  collection.set_model("moments");
  collection.mutable_parts();
  ASSERT_TRUE(Create(collection).ok());
  // Eight frames of half a second, of which the head sees four pairs.
  v1::UpsertRequest video = TextItem("m", "video", "");
  video.mutable_video()->set_content("red red red red blue blue red red");
  grpc::Status written;
  const auto results = Upsert({video}, &written);
  ASSERT_TRUE(written.ok()) << written.error_message();
  ASSERT_EQ(results.front().status().code(), 0);
  v1::SearchRequest request = For(v1::GRANULARITY_SEGMENT);
  request.set_collection("m");
  request.set_min_probability(0.7F);
  v1::SearchResponse response;
  const grpc::Status status = Search(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.hits_size(), 1);
  const v1::Hit& hit = response.hits(0);
  ASSERT_THAT(hit.evidence(), SizeIs(1));
  EXPECT_EQ(hit.evidence(0).span().start().seconds(), 2);
  EXPECT_EQ(hit.evidence(0).span().end().seconds(), 3);
  EXPECT_GT(hit.probability(), 0.9F);
  EXPECT_EQ(hit.probability(), hit.evidence(0).score());
  request.mutable_query()->mutable_parts(0)->set_text("nothing of this");
  ASSERT_TRUE(Search(request, &response).ok());
  EXPECT_EQ(response.hits_size(), 0);
}

TEST_F(PartSearchTest, ABatchMayMixWhatItsHitsAre) {
  v1::BatchSearchRequest batch;
  batch.set_collection("c");
  *batch.add_requests() = For(v1::GRANULARITY_REGION);
  *batch.add_requests() = For(v1::GRANULARITY_ITEM);
  *batch.add_requests() = For(v1::GRANULARITY_SEGMENT);
  *batch.add_requests() = For(v1::Granularity(9));
  v1::BatchSearchResponse response;
  ASSERT_TRUE(Call(v1::Retrieval::NewStub(channel_),
                   &v1::Retrieval::Stub::BatchSearch, batch, &response)
                  .ok());
  ASSERT_THAT(response.results(), SizeIs(4));
  EXPECT_TRUE(response.results(0).response().hits(0).evidence(0).has_box());
  EXPECT_EQ(response.results(1).response().hits_size(), 4);
  EXPECT_THAT(response.results(1).response().hits(0).evidence(), SizeIs(0));
  EXPECT_TRUE(response.results(2).response().hits(0).evidence(0).has_span());
  EXPECT_EQ(response.results(3).status().code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

// Turned on for what is stored already, then off again.
TEST_F(PartSearchTest, AnUpdateMakesPartsSearchable) {
  v1::UpdateCollectionRequest update;
  update.mutable_collection()->set_name("c");
  v1::PartsConfig& parts = *update.mutable_collection()->mutable_parts();
  parts.set_dense(v1::PartsConfig::DENSE_7X7);
  parts.set_searchable(true);
  update.mutable_update_mask()->add_paths("parts");
  v1::Collection collection;
  const auto send = [&] {
    return Call(v1::Collections::NewStub(channel_),
                &v1::Collections::Stub::Update, update, &collection);
  };
  ASSERT_TRUE(send().ok());
  EXPECT_TRUE(collection.parts().searchable());
  EXPECT_EQ(collection.status().state(), v1::CollectionStatus::STATE_READY);
  const int64_t memory_bytes = collection.status().memory_bytes();

  v1::BatchSearchRequest batch;
  batch.set_collection("c");
  for (const auto granularity : {v1::GRANULARITY_REGION, v1::GRANULARITY_REGION,
                                 v1::GRANULARITY_SEGMENT}) {
    *batch.add_requests() = For(granularity);
    batch.mutable_requests(batch.requests_size() - 1)->set_explain(true);
  }
  v1::BatchSearchResponse response;
  ASSERT_TRUE(Call(v1::Retrieval::NewStub(channel_),
                   &v1::Retrieval::Stub::BatchSearch, batch, &response)
                  .ok());
  ASSERT_THAT(response.results(), SizeIs(3));
  const std::vector<std::string> expected = {"blue", "blue", "video"};
  for (int i = 0; i < 3; ++i) {
    const v1::SearchResponse& one = response.results(i).response();
    EXPECT_FALSE(one.report().degraded());
    EXPECT_THAT(one.report().explanation(), HasSubstr("in the index of parts"));
    ASSERT_GE(one.hits_size(), 1);
    EXPECT_EQ(one.hits(0).item().id(), expected[i]);
  }

  parts.set_searchable(false);
  ASSERT_TRUE(send().ok());
  EXPECT_LT(collection.status().memory_bytes(), memory_bytes);
  v1::SearchResponse one;
  ASSERT_TRUE(Search(batch.requests(0), &one).ok());
  EXPECT_THAT(one.report().explanation(),
              testing::Not(HasSubstr("index of parts")));
  parts.set_searchable(true);
  parts.set_dense(v1::PartsConfig::DENSE_OFF);
  parts.set_frames_per_second(0);
  EXPECT_EQ(ViolatedField(send().error_details()),
            "collection.parts.searchable");
}

TEST_F(PartSearchTest, PagesGoOnWhereTheLastOneEnded) {
  v1::SearchRequest request = For(v1::GRANULARITY_REGION);
  v1::SearchResponse all;
  ASSERT_TRUE(Search(request, &all).ok());
  ASSERT_GE(all.hits_size(), 2);
  request.set_page_size(1);
  for (int i = 0; i < all.hits_size(); ++i) {
    v1::SearchResponse page;
    ASSERT_TRUE(Search(request, &page).ok());
    ASSERT_THAT(page.hits(), SizeIs(1));
    EXPECT_EQ(page.hits(0).SerializeAsString(),
              all.hits(i).SerializeAsString());
    EXPECT_EQ(page.next_page_token().empty(), i + 1 == all.hits_size());
    request.set_page_token(page.next_page_token());
  }
  v1::SearchResponse first;
  request.clear_page_token();
  ASSERT_TRUE(Search(request, &first).ok());
  request.set_page_token(first.next_page_token());
  request.set_granularity(v1::GRANULARITY_ITEM);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "page_token",
                "another query");
}

TEST_F(PartSearchTest, RefusesBadRequestsByName) {
  const auto changed =
      [](const std::function<void(v1::SearchRequest&)>& change) {
        v1::SearchRequest request = For(v1::GRANULARITY_REGION);
        change(request);
        return request;
      };
  using R = v1::SearchRequest;
  const auto bad = grpc::StatusCode::INVALID_ARGUMENT;
  ExpectRefused(changed([](R& r) { r.set_granularity(v1::Granularity(9)); }),
                bad, "granularity", "is 9; it must be ITEM, REGION or SEGMENT");
  ExpectRefused(changed([](R& r) { r.set_min_probability(1.5F); }), bad,
                "min_probability", "is 1.5; it must be 0 to 1");
  ExpectRefused(changed([](R& r) { r.set_min_probability(std::nanf("")); }),
                bad, "min_probability", "it must be 0 to 1");
  ExpectRefused(changed([](R& r) {
                  r.mutable_query()->mutable_parts(0)->set_item_id("red");
                }),
                bad, "query.parts", "no text of positive weight");
  ExpectRefused(changed([](R& r) {
                  r.mutable_query()->mutable_parts(0)->set_weight(-1);
                }),
                bad, "query.parts", "no text of positive weight");
  ExpectRefused(
      changed([](R& r) { r.mutable_query()->mutable_parts(0)->set_text(""); }),
      bad, "query.parts[0].text", "empty");
  ExpectRefused(
      changed([](R& r) {
        r.mutable_query()->mutable_parts(0)->set_text(std::string(70'000, 'a'));
      }),
      bad, "query.parts[0].text", "65536");
  ExpectRefused(changed([](R& r) {
                  r.mutable_rerank()->set_method(v1::Rerank::METHOD_REMOTE);
                }),
                bad, "rerank.method", "left out with granularity REGION");
  ExpectRefused(changed([](R& r) { r.mutable_rerank()->set_depth(0); }), bad,
                "rerank.depth", "is 0");
  ExpectRefused(changed([](R& r) { r.mutable_rerank()->set_weight(2); }), bad,
                "rerank.weight", "is 2");
  ExpectRefused(changed([](R& r) { r.add_modalities(v1::MODALITY_TEXT); }), bad,
                "modalities", "leave out pictures");
  ExpectRefused(changed([](R& r) { r.mutable_group_by()->set_field("a..b"); }),
                bad, "group_by.field", "payload field");
  const auto lacks = grpc::StatusCode::FAILED_PRECONDITION;
  ExpectRefused(changed([](R& r) { r.set_min_probability(0.5F); }), lacks, "",
                "has no calibration");
  ASSERT_TRUE(Create("off").ok());
  ExpectRefused(changed([](R& r) { r.set_collection("off"); }), lacks, "",
                "keeps no grid of its pictures: set its parts.dense");
  ExpectRefused(changed([](R& r) {
                  r.set_collection("off");
                  r.set_granularity(v1::GRANULARITY_SEGMENT);
                }),
                lacks, "", "keeps no frames of its videos");
  ExpectRefused(changed([](R& r) {
                  r.set_granularity(v1::GRANULARITY_ITEM);
                  r.set_min_probability(0.5F);
                }),
                grpc::StatusCode::UNIMPLEMENTED, "", "granularity ITEM");
}

TEST_F(PartSearchTest, TakesLongAndForeignTexts) {
  v1::SearchResponse response;
  ASSERT_TRUE(
      Search(For(v1::GRANULARITY_REGION, "雪の中の赤い犬"), &response).ok());
  EXPECT_GT(response.hits_size(), 0);
  std::string longest;
  while (longest.size() < 10'000) longest += "red ";
  ASSERT_TRUE(Search(For(v1::GRANULARITY_REGION, longest), &response).ok());
  EXPECT_TRUE(response.report().query_truncated());
}

TEST_F(PartSearchTest, AShortDeadlineDoesNotHang) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(1));
  v1::SearchResponse response;
  const grpc::Status status = v1::Retrieval::NewStub(channel_)->Search(
      &context, For(v1::GRANULARITY_REGION), &response);
  if (!status.ok()) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_TRUE(Search(For(v1::GRANULARITY_REGION), &response).ok());
}

}  // namespace
}  // namespace quern
