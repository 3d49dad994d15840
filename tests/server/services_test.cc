// Every method over a real connection, with fakes below the engine.

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"

#include "quern/v1/categories.pb.h"
#include "quern/v1/grounding.pb.h"
#include "quern/v1/scoring.pb.h"
#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class ServicesTest : public ServerTest {
 protected:
  void SetUp() override { StartServer(); }

  // Collection "c" with three colours.
  void FillCollection() {
    ASSERT_TRUE(Create("c").ok());
    v1::UpsertRequest red = TextItem("c", "1-red", "");
    red.mutable_image()->set_content("red");
    (*red.mutable_payload()->mutable_fields())["shelf"].set_number_value(7);
    red.set_media_uri("red.png");
    v1::UpsertRequest blue = TextItem("c", "2-blue", "");
    blue.mutable_image()->set_content("blue");
    grpc::Status status;
    Upsert({red, blue, TextItem("c", "3-green", "green")}, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  void ExpectRefused(const v1::SearchRequest& request, grpc::StatusCode code,
                     const std::string& text) {
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    EXPECT_EQ(status.error_code(), code) << text;
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }
};

TEST_F(ServicesTest, SearchFindsByEveryKindOfPart) {
  FillCollection();
  v1::SearchResponse response;
  ASSERT_TRUE(Search(TextSearch("c", "red"), &response).ok());
  ASSERT_EQ(response.hits_size(), 3);
  const v1::Item& best = response.hits(0).item();
  EXPECT_EQ(best.id(), "1-red");
  EXPECT_EQ(best.payload().fields().at("shelf").number_value(), 7);
  EXPECT_EQ(best.modality(), v1::MODALITY_IMAGE);
  EXPECT_EQ(best.media_uri(), "red.png");
  EXPECT_FALSE(best.has_embedding());
  EXPECT_GT(best.create_time().seconds(), 0);
  EXPECT_GT(response.hits(0).score(), response.hits(1).score());

  const v1::SearchReport& report = response.report();
  EXPECT_EQ(report.model().name(), "fake");
  EXPECT_EQ(report.model().fingerprint(), "fingerprint-of-fake");
  EXPECT_EQ(report.shards_asked(), 1);
  EXPECT_EQ(report.shards_answered(), 1);
  EXPECT_EQ(report.item_count(), 3);
  std::vector<std::string> stages;
  for (const auto& stage : report.stages()) stages.push_back(stage.stage());
  EXPECT_THAT(stages, ElementsAre("queue", "encode", "search", "fetch"));

  v1::SearchRequest by_image;
  by_image.set_collection("c");
  by_image.mutable_query()->add_parts()->mutable_image()->set_content("blue");
  ASSERT_TRUE(Search(by_image, &response).ok());
  EXPECT_EQ(response.hits(0).item().id(), "2-blue");

  v1::SearchRequest by_item;
  by_item.set_collection("c");
  by_item.mutable_query()->add_parts()->set_item_id("1-red");
  ASSERT_TRUE(Search(by_item, &response).ok());
  EXPECT_EQ(response.hits_size(), 2);
}

TEST_F(ServicesTest, SearchReturnsTheFieldsOfTheMask) {
  FillCollection();
  v1::SearchRequest request = TextSearch("c", "red");
  request.set_page_size(1);
  request.mutable_read_mask()->add_paths("id");
  request.mutable_read_mask()->add_paths("embedding");
  v1::SearchResponse response;
  ASSERT_TRUE(Search(request, &response).ok());
  ASSERT_EQ(response.hits_size(), 1);
  const v1::Item& item = response.hits(0).item();
  EXPECT_EQ(item.id(), "1-red");
  EXPECT_EQ(item.embedding().values_size(), kFakeDimension);
  EXPECT_FALSE(item.has_payload());
  EXPECT_FALSE(item.has_create_time());
  EXPECT_EQ(item.etag(), "");
  request.mutable_read_mask()->add_paths("payload.shelf");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT,
                "read_mask: \"payload.shelf\"");
}

TEST_F(ServicesTest, SearchRefusesBadValuesByName) {
  FillCollection();
  for (int k : {0, -1, 10'001}) {
    v1::SearchRequest request = TextSearch("c", "red");
    request.set_page_size(k);
    ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT,
                  absl::StrCat("page_size: is ", k, "; it must be 1 to 10000"));
  }
  v1::SearchRequest request = TextSearch("c", "red");
  request.set_recall(0);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "recall: is 0");
  request = TextSearch("c", "red");
  request.set_min_score(std::numeric_limits<float>::quiet_NaN());
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "min_score");
  request = TextSearch("c", "red");
  request.mutable_query()->add_parts();
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "query.parts[1]");
  ExpectRefused(TextSearch("", "red"), grpc::StatusCode::INVALID_ARGUMENT,
                "collection: is empty");
  ExpectRefused(TextSearch("nowhere", "red"), grpc::StatusCode::NOT_FOUND,
                "nowhere");
}

TEST_F(ServicesTest, PartsAreKeptShownAndRerankedBy) {
  v1::Collection collection;
  collection.set_name("c");
  collection.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
  ASSERT_TRUE(Create(collection).ok());
  v1::UpsertRequest red = TextItem("c", "1-red", "");
  red.mutable_image()->set_content("red");
  v1::UpsertRequest video = TextItem("c", "2-video", "");
  video.mutable_video()->set_content("red blue red");
  grpc::Status status;
  Upsert({red, video, TextItem("c", "3-text", "blue")}, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();

  v1::SearchRequest request = TextSearch("c", "blue");
  request.mutable_rerank()->set_method(v1::Rerank::METHOD_BEST_PART);
  request.mutable_rerank()->set_weight(1);
  v1::SearchResponse response;
  ASSERT_TRUE(Search(request, &response).ok());
  ASSERT_EQ(response.hits_size(), 3);
  EXPECT_TRUE(response.report().degraded());
  EXPECT_EQ(response.report().degraded_reasons_size(), 1);
  std::map<std::string, const v1::Hit*> hits;
  for (const v1::Hit& hit : response.hits()) hits[hit.item().id()] = &hit;
  EXPECT_EQ(hits["1-red"]->item().parts().grid_height(), 2);
  EXPECT_EQ(hits["1-red"]->item().parts().width(), 16);
  EXPECT_EQ(hits["1-red"]->stage_scores(1).stage(), "best_part");
  EXPECT_TRUE(hits["1-red"]->evidence(0).has_box());
  EXPECT_EQ(hits["2-video"]->item().parts().frame_count(), 3);
  EXPECT_EQ(hits["2-video"]->item().parts().duration().seconds(), 1);
  EXPECT_EQ(hits["2-video"]->evidence(0).span().start().nanos(), 500'000'000);
  EXPECT_FALSE(hits["3-text"]->item().has_parts());
  EXPECT_EQ(hits["3-text"]->stage_scores_size(), 1);

  request.mutable_rerank()->set_method(v1::Rerank::METHOD_LATE_INTERACTION);
  ExpectRefused(request, grpc::StatusCode::FAILED_PRECONDITION, "text.tokens");
  request.mutable_rerank()->set_method(v1::Rerank::Method(9));
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "rerank.method");
}

TEST_F(ServicesTest, SearchRefusesWhatIsNotThereYet) {
  FillCollection();
  using Change = std::function<void(v1::SearchRequest&)>;
  const std::vector<std::pair<std::string, Change>> changes = {
      {"min_probability", [](auto& r) { r.set_min_probability(0.5F); }},
      {"category", [](auto& r) { r.mutable_category(); }},
      {"query.feedback",
       [](auto& r) { r.mutable_query()->mutable_feedback(); }},
      {"query.parts[0].audio",
       [](auto& r) { r.mutable_query()->mutable_parts(0)->mutable_audio(); }}};
  for (const auto& [field, change] : changes) {
    v1::SearchRequest request = TextSearch("c", "red");
    change(request);
    ExpectRefused(request, grpc::StatusCode::UNIMPLEMENTED,
                  absl::StrCat(field, ": not available in this version"));
  }
}

TEST_F(ServicesTest, TextThatIsNotUtf8IsNamed) {
  v1::SearchResponse response;
  const grpc::Status status = Search(TextSearch("c", "caf\xe9"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()), "query.parts[0].text");
  EXPECT_THAT(status.error_message(), HasSubstr("not valid UTF-8"));
}

TEST_F(ServicesTest, GarbageIsRefusedWithAReason) {
  const grpc::Status status =
      RawCall("/quern.v1.Retrieval/Search", std::string(9, '\xff'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("malformed message"));
}

TEST_F(ServicesTest, EveryOtherMethodSaysThatItIsNotThereYet) {
  const std::set<std::string> available = {
      "quern.v1.Retrieval.Search",
      "quern.v1.Embedding.Embed",
      "quern.v1.Items.Upsert",
      "quern.v1.Items.Get",
      "quern.v1.Items.List",
      "quern.v1.Items.Update",
      "quern.v1.Items.Delete",
      "quern.v1.Collections.Create",
      "quern.v1.Collections.Get",
      "quern.v1.Collections.List",
      "quern.v1.Collections.Update",
      "quern.v1.Collections.Delete",
      "quern.v1.Collections.Optimize",
      "quern.v1.Collections.Reindex",
      "quern.v1.Collections.GetJob",
      "quern.v1.Collections.CreateSnapshot",
      "quern.v1.Collections.ListSnapshots",
      "quern.v1.Collections.DeleteSnapshot",
      "quern.v1.Collections.RestoreSnapshot",
      "quern.v1.Collections.ExportSnapshot",
      "quern.v1.Collections.ImportSnapshot",
      "quern.v1.Retrieval.BatchSearch",
      "quern.v1.Grounding.GroundRegions",
      "quern.v1.Grounding.GroundSegments",
      "quern.v1.Models.List",
      "quern.v1.Models.Get",
      "quern.v1.Embedding.EmbedStream",
      "quern.v1.Models.Load",
      "quern.v1.Models.Unload",
      "quern.v1.Models.SetDefault",
      "quern.v1.Scoring.Score",
      "quern.v1.Scoring.Describe"};
  int refused = 0;
  for (const auto* file :
       {v1::SearchRequest::descriptor()->file(),
        v1::EmbedRequest::descriptor()->file(), v1::Item::descriptor()->file(),
        v1::Collection::descriptor()->file(), v1::Model::descriptor()->file(),
        v1::GroundRegionsRequest::descriptor()->file(),
        v1::Taxonomy::descriptor()->file(),
        v1::ScoreRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service(0)->method_count(); ++i) {
      const auto& method = *file->service(0)->method(i);
      if (available.contains(method.full_name())) continue;
      const std::string name =
          absl::StrCat(file->service(0)->full_name(), "/", method.name());
      const grpc::Status status = RawCall("/" + name, "");
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << name;
      EXPECT_THAT(status.error_message(), HasSubstr(name));
      ++refused;
    }
  }
  server_->Shutdown();  // Calls count once gRPC is done with them.
  const std::string metrics = ScrapeMetrics();
  EXPECT_THAT(metrics, HasSubstr("method=\"quern.v1.Categories/Classify\""));
  EXPECT_GT(refused, 0);
}

TEST_F(ServicesTest, EmbedAnswersForEachInput) {
  v1::EmbedRequest request;
  request.add_inputs()->set_text("red");
  request.add_inputs()->set_text("");
  request.add_inputs()->mutable_image()->set_content("blue");
  request.add_inputs();
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(request, &response).ok());
  ASSERT_EQ(response.results_size(), 4);
  EXPECT_EQ(response.results(0).embedding().values_size(), kFakeDimension);
  EXPECT_EQ(response.results(0).token_count(), 2);
  EXPECT_EQ(ViolatedField(response.results(1).status().SerializeAsString()),
            "inputs[1].text");
  EXPECT_EQ(response.results(2).status().code(), 0);
  EXPECT_EQ(response.results(3).status().code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(response.model().name(), "fake");
  EXPECT_GT(response.stages_size(), 0);
}

TEST_F(ServicesTest, EmbedFailsWhenNoInputSucceeds) {
  v1::EmbedRequest request;
  request.add_inputs()->mutable_image()->set_content("nonsense");
  request.add_inputs()->mutable_video();
  v1::EmbedResponse response;
  const grpc::Status status = Embed(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()), "inputs[0].image.content");
}

TEST_F(ServicesTest, EmbedRefusesBadRequests) {
  v1::EmbedResponse response;
  EXPECT_EQ(ViolatedField(Embed({}, &response).error_details()), "inputs");
  v1::EmbedRequest request;
  for (int i = 0; i < 1025; ++i) request.add_inputs()->set_text("red");
  EXPECT_THAT(Embed(request, &response).error_message(),
              HasSubstr("inputs: there are 1025; give 1 to 1024"));
  request.mutable_inputs()->DeleteSubrange(1, 1024);
  request.set_model("nobody");
  EXPECT_EQ(Embed(request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  request.clear_model();
  request.add_outputs(v1::EMBEDDING_OUTPUT_TOKENS);
  EXPECT_THAT(Embed(request, &response).error_message(),
              HasSubstr("text.tokens"));
  request.add_outputs(static_cast<v1::EmbeddingOutput>(9));
  EXPECT_EQ(ViolatedField(Embed(request, &response).error_details()),
            "outputs[1]");
  request.clear_outputs();
  request.mutable_video()->set_frames_per_second(61);
  EXPECT_EQ(ViolatedField(Embed(request, &response).error_details()),
            "video.frames_per_second");
  request.mutable_video()->clear_frames_per_second();
  request.mutable_video()->set_max_frames(0);
  EXPECT_EQ(ViolatedField(Embed(request, &response).error_details()),
            "video.max_frames");
}

TEST_F(ServicesTest, EmbedGivesGridsAndFrames) {
  v1::EmbedRequest request;
  request.add_inputs()->mutable_image()->set_content("blue");
  request.add_inputs()->mutable_video()->set_content("red blue red");
  request.add_outputs(v1::EMBEDDING_OUTPUT_DENSE);
  request.mutable_video()->set_max_frames(2);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(request, &response).ok());
  const v1::DenseFeatures& grid = response.results(0).dense();
  EXPECT_FALSE(response.results(0).has_embedding());
  EXPECT_EQ(grid.grid_height(), 2);
  EXPECT_EQ(grid.grid_width(), 2);
  EXPECT_EQ(grid.dimension(), kFakeDimension);
  EXPECT_EQ(grid.values_size(), 4 * kFakeDimension);
  EXPECT_EQ(grid.times_size(), 0);
  const v1::DenseFeatures& frames = response.results(1).dense();
  EXPECT_EQ(frames.values_size(), 2 * kFakeDimension);
  ASSERT_EQ(frames.times_size(), 2);
  EXPECT_EQ(frames.times(1).nanos(), 500'000'000);
}

TEST_F(ServicesTest, EmbedStreamAnswersInOrderAndABadInputFailsAlone) {
  grpc::ClientContext context;
  auto stream = v1::Embedding::NewStub(channel_)->EmbedStream(&context);
  constexpr int kMessages = 200;
  std::thread writer([&] {
    for (int i = 0; i < kMessages; ++i) {
      v1::EmbedStreamRequest request;
      if (i % 3 == 0) {
        request.mutable_input()->set_text(absl::StrCat("text ", i));
      } else {
        request.mutable_input()->mutable_image()->set_content(
            i % 3 == 1 ? "red" : "nonsense");
      }
      ASSERT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  v1::EmbedStreamResponse response;
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.index(), i);
    EXPECT_EQ(response.has_model(), i == 0);
    EXPECT_EQ(response.result().status().code(), i % 3 == 2 ? 3 : 0);
    if (i % 3 == 2) {
      EXPECT_EQ(ViolatedField(response.result().status().SerializeAsString()),
                "input.image.content");
    } else {
      EXPECT_EQ(response.result().embedding().values_size(), kFakeDimension);
    }
  }
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  writer.join();
}

TEST_F(ServicesTest, EmbedStreamEndsWhenItsFirstMessageIsWrong) {
  grpc::ClientContext context;
  auto stream = v1::Embedding::NewStub(channel_)->EmbedStream(&context);
  v1::EmbedStreamRequest request;
  request.set_model("nobody");
  stream->Write(request);
  v1::EmbedStreamResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServicesTest, VideosAreStoredAndSearchedWith) {
  ASSERT_TRUE(Create("c").ok());
  v1::UpsertRequest red = TextItem("c", "red", "");
  red.mutable_video()->set_content("red red");
  v1::UpsertRequest blue = TextItem("c", "blue", "");
  blue.mutable_video()->set_content("blue");
  grpc::Status status;
  for (const auto& response : Upsert({red, blue}, &status)) {
    EXPECT_EQ(response.status().code(), 0) << response.status().message();
  }
  v1::SearchResponse response;
  ASSERT_TRUE(Search(TextSearch("c", "blue"), &response).ok());
  EXPECT_EQ(response.hits(0).item().id(), "blue");
  EXPECT_EQ(response.hits(0).item().modality(), v1::MODALITY_VIDEO);
  v1::SearchRequest by_video;
  by_video.set_collection("c");
  by_video.mutable_query()->add_parts()->mutable_video()->set_content("red");
  ASSERT_TRUE(Search(by_video, &response).ok());
  EXPECT_EQ(response.hits(0).item().id(), "red");
}

TEST_F(ServicesTest, MediaOutsideTheRootsAreRefusedWithTheirField) {
  ASSERT_TRUE(Create("c").ok());
  v1::SearchRequest request = TextSearch("c", "red");
  request.mutable_query()->mutable_parts(0)->mutable_image()->set_uri("/etc");
  ExpectRefused(request, grpc::StatusCode::PERMISSION_DENIED,
                "query.parts[0]: image.uri: ");
}

TEST_F(ServicesTest, ItemsAreReadListedAndDeleted) {
  FillCollection();
  v1::GetItemRequest get;
  get.set_collection("c");
  get.set_id("1-red");
  v1::Item item;
  ASSERT_TRUE(
      Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Get, get, &item)
          .ok());
  EXPECT_EQ(item.media_uri(), "red.png");
  get.set_id("nobody");
  grpc::Status status =
      Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Get, get, &item);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_details(), HasSubstr("google.rpc.ResourceInfo"));

  v1::DeleteItemsRequest erase;
  erase.set_collection("c");
  erase.add_ids("1-red");
  erase.add_ids("nobody");
  v1::DeleteItemsResponse erased;
  ASSERT_TRUE(Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Delete,
                   erase, &erased)
                  .ok());
  EXPECT_EQ(erased.deleted_count(), 1);
  erase.add_ids("");
  status = Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Delete, erase,
                &erased);
  EXPECT_EQ(ViolatedField(status.error_details()), "ids[2].id");
}

TEST_F(ServicesTest, ItemPagesGoOnWhereTheLastEnded) {
  FillCollection();
  v1::ListItemsRequest request;
  request.set_collection("c");
  request.set_page_size(2);
  const auto list = [&](v1::ListItemsResponse* response) {
    return Call(v1::Items::NewStub(channel_), &v1::Items::Stub::List, request,
                response);
  };
  v1::ListItemsResponse first, second;
  ASSERT_TRUE(list(&first).ok());
  ASSERT_EQ(first.items_size(), 2);
  EXPECT_EQ(first.items(1).id(), "2-blue");
  request.set_page_token(first.next_page_token());
  ASSERT_TRUE(list(&second).ok());
  ASSERT_EQ(second.items_size(), 1);
  EXPECT_EQ(second.items(0).id(), "3-green");
  EXPECT_EQ(second.next_page_token(), "");

  ASSERT_TRUE(Create("d").ok());
  request.set_collection("d");
  EXPECT_EQ(ViolatedField(list(&second).error_details()), "page_token");
  request.set_page_token("!!");
  EXPECT_EQ(ViolatedField(list(&second).error_details()), "page_token");
  request.clear_page_token();
  request.set_page_size(1001);
  EXPECT_EQ(ViolatedField(list(&second).error_details()), "page_size");
}

// Collection "f" of embeddings, with the fields shelf (number) and lang
// (string) declared, and items "a" to "e" on shelves 1 to 5.
class ItemsTest : public ServicesTest {
 protected:
  void SetUp() override {
    ServicesTest::SetUp();
    v1::Collection collection;
    collection.set_name("f");
    collection.set_model("none");
    collection.set_dimension(2);
    Declare("shelf", v1::PayloadField::TYPE_NUMBER, collection);
    Declare("lang", v1::PayloadField::TYPE_STRING, collection);
    ASSERT_TRUE(Create(collection).ok());
    std::vector<v1::UpsertRequest> requests;
    for (int i = 0; i < 5; ++i) {
      v1::UpsertRequest& request = requests.emplace_back();
      request.set_collection("f");
      request.set_id(std::string(1, static_cast<char>('a' + i)));
      request.mutable_embedding()->add_values(1);
      request.mutable_embedding()->add_values(static_cast<float>(i));
      auto& fields = *request.mutable_payload()->mutable_fields();
      fields["shelf"].set_number_value(i + 1);
      fields["lang"].set_string_value(i % 2 == 0 ? "de" : "fr");
      if (i == 4) request.mutable_ttl()->set_seconds(60);
    }
    grpc::Status status;
    Upsert(requests, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  static void Declare(const std::string& path, v1::PayloadField::Type type,
                      v1::Collection& collection) {
    v1::PayloadField& field = *collection.add_payload_fields();
    field.set_path(path);
    field.set_type(type);
  }

  grpc::Status List(const v1::ListItemsRequest& request,
                    v1::ListItemsResponse* response) {
    return Call(v1::Items::NewStub(channel_), &v1::Items::Stub::List, request,
                response);
  }
  std::vector<std::string> ListIds(const std::string& filter = "") {
    v1::ListItemsRequest request;
    request.set_collection("f");
    request.set_filter(filter);
    v1::ListItemsResponse response;
    const grpc::Status status = List(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::vector<std::string> ids;
    for (const v1::Item& item : response.items()) ids.push_back(item.id());
    return ids;
  }
  grpc::Status Update(const v1::Item& item,
                      const std::vector<std::string>& paths,
                      v1::Item* response) {
    v1::UpdateItemRequest request;
    request.set_collection("f");
    *request.mutable_item() = item;
    for (const std::string& path : paths) {
      request.mutable_update_mask()->add_paths(path);
    }
    return Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Update, request,
                response);
  }
  grpc::Status Delete(const std::string& filter,
                      v1::DeleteItemsResponse* response,
                      const std::vector<std::string>& ids = {}) {
    v1::DeleteItemsRequest request;
    request.set_collection("f");
    request.set_filter(filter);
    *request.mutable_ids() = {ids.begin(), ids.end()};
    return Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Delete, request,
                response);
  }
  grpc::Status UpdateCollection(const v1::Collection& collection,
                                const std::vector<std::string>& paths,
                                v1::Collection* response) {
    v1::UpdateCollectionRequest request;
    *request.mutable_collection() = collection;
    for (const std::string& path : paths) {
      request.mutable_update_mask()->add_paths(path);
    }
    return Call(v1::Collections::NewStub(channel_),
                &v1::Collections::Stub::Update, request, response);
  }
};

TEST_F(ItemsTest, ListsWhatMatchesAFilterInPages) {
  EXPECT_THAT(ListIds("shelf >= 3"), ElementsAre("c", "d", "e"));
  EXPECT_THAT(ListIds("lang = \"de\" AND NOT shelf = 1"),
              ElementsAre("c", "e"));
  v1::ListItemsRequest request;
  request.set_collection("f");
  request.set_filter("lang = \"de\"");
  request.set_page_size(2);
  request.mutable_read_mask()->add_paths("id");
  v1::ListItemsResponse response;
  ASSERT_TRUE(List(request, &response).ok());
  ASSERT_EQ(response.items_size(), 2);
  EXPECT_FALSE(response.items(0).has_payload());
  request.set_page_token(response.next_page_token());
  ASSERT_TRUE(List(request, &response).ok());
  ASSERT_EQ(response.items_size(), 1);
  EXPECT_EQ(response.items(0).id(), "e");
  EXPECT_EQ(response.next_page_token(), "");
  // The token is of this filter.
  request.set_filter("lang = \"fr\"");
  EXPECT_EQ(ViolatedField(List(request, &response).error_details()),
            "page_token");
  request.clear_page_token();
  request.set_filter("colour = 1");
  const grpc::Status undeclared = List(request, &response);
  EXPECT_EQ(ViolatedField(undeclared.error_details()), "filter");
  EXPECT_THAT(undeclared.error_message(), HasSubstr("shelf"));
}

TEST_F(ItemsTest, DeletesWhatMatchesAFilter) {
  v1::DeleteItemsResponse response;
  ASSERT_TRUE(Delete("shelf > 2 AND lang = \"de\"", &response).ok());
  EXPECT_EQ(response.deleted_count(), 2);
  EXPECT_THAT(ListIds(), ElementsAre("a", "b", "d"));
  v1::SearchRequest search;
  search.set_collection("f");
  auto& vector = *search.mutable_query()->add_parts()->mutable_embedding();
  vector.add_values(1);
  vector.add_values(0);
  v1::SearchResponse found;
  ASSERT_TRUE(Search(search, &found).ok());
  EXPECT_EQ(found.hits_size(), 3);
  EXPECT_EQ(ViolatedField(Delete("lang = 3", &response).error_details()),
            "filter");
  EXPECT_EQ(ViolatedField(Delete(" ", &response).error_details()), "filter");
  EXPECT_EQ(
      ViolatedField(Delete("shelf = 1", &response, {"a"}).error_details()),
      "filter");
  EXPECT_EQ(ViolatedField(Delete("", &response).error_details()), "ids");
  EXPECT_THAT(ListIds(), ElementsAre("a", "b", "d"));
}

TEST_F(ItemsTest, UpdatesWhatTheMaskNamesAndNothingElse) {
  v1::Item given;
  given.set_id("a");
  given.set_media_uri("new.png");
  auto& fields = *given.mutable_payload()->mutable_fields();
  fields["shelf"].set_number_value(40);
  (*fields["camera"].mutable_struct_value()->mutable_fields())["model"]
      .set_string_value("X100");
  v1::Item updated;
  ASSERT_TRUE(
      Update(given, {"payload.shelf", "payload.camera.model"}, &updated).ok());
  EXPECT_EQ(updated.payload().fields().at("shelf").number_value(), 40);
  EXPECT_EQ(updated.payload().fields().at("lang").string_value(), "de");
  EXPECT_EQ(updated.payload()
                .fields()
                .at("camera")
                .struct_value()
                .fields()
                .at("model")
                .string_value(),
            "X100");
  EXPECT_EQ(updated.media_uri(), "");
  EXPECT_EQ(updated.modality(), v1::MODALITY_EMBEDDING);
  EXPECT_THAT(ListIds("shelf = 40"), ElementsAre("a"));

  const std::string etag = updated.etag();
  clock_->Advance(absl::Seconds(1));
  ASSERT_TRUE(Update(given, {"media_uri", "payload.lang"}, &updated).ok());
  EXPECT_EQ(updated.media_uri(), "new.png");
  EXPECT_FALSE(updated.payload().fields().contains("lang"));
  EXPECT_NE(updated.etag(), etag);
  EXPECT_GT(updated.update_time().seconds(), updated.create_time().seconds());

  // The embedding is as it was.
  v1::GetItemRequest get;
  get.set_collection("f");
  get.set_id("a");
  get.mutable_read_mask()->add_paths("*");
  v1::Item whole;
  ASSERT_TRUE(
      Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Get, get, &whole)
          .ok());
  EXPECT_THAT(whole.embedding().values(), ElementsAre(1, 0));
}

TEST_F(ItemsTest, AnUpdateThatCannotBeIsRefusedByName) {
  v1::Item given;
  given.set_id("a");
  (*(*given.mutable_payload()->mutable_fields())["lang"]
        .mutable_struct_value()
        ->mutable_fields())["code"]
      .set_string_value("de");
  v1::Item updated;
  for (const std::string path : {"payload.lang.code", "payload.",
                                 "payload.a..b", "embedding", "id", ""}) {
    EXPECT_EQ(ViolatedField(Update(given, {path}, &updated).error_details()),
              "update_mask")
        << path;
  }
  EXPECT_EQ(ViolatedField(Update(given, {}, &updated).error_details()),
            "update_mask");
  given.mutable_expire_time()->set_seconds(1000);
  EXPECT_EQ(
      ViolatedField(Update(given, {"expire_time"}, &updated).error_details()),
      "item.expire_time");
  given.set_media_uri(std::string(4097, 'u'));
  EXPECT_EQ(
      ViolatedField(Update(given, {"media_uri"}, &updated).error_details()),
      "item.media_uri");
  (*given.mutable_payload()->mutable_fields())["long"].set_string_value(
      std::string(65'536, 'x'));
  EXPECT_EQ(
      ViolatedField(Update(given, {"payload.long"}, &updated).error_details()),
      "item.payload");
  given.set_id("nobody");
  EXPECT_EQ(Update(given, {"payload"}, &updated).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(ListIds("shelf = 1 AND lang = \"de\""), ElementsAre("a"));
}

TEST_F(ItemsTest, ItemsDisappearWhenTheirTimeIsOver) {
  v1::Collection settings;
  settings.set_name("f");
  settings.mutable_ttl()->set_seconds(600);
  v1::Collection changed;
  ASSERT_TRUE(UpdateCollection(settings, {"ttl"}, &changed).ok());
  v1::UpsertRequest by_default;
  by_default.set_collection("f");
  by_default.set_id("default");
  by_default.mutable_embedding()->add_values(1);
  by_default.mutable_embedding()->add_values(1);
  grpc::Status status;
  Upsert({by_default}, &status);
  clock_->Advance(absl::Seconds(59));
  EXPECT_THAT(ListIds(), ElementsAre("a", "b", "c", "d", "default", "e"));
  clock_->Advance(absl::Seconds(1));
  EXPECT_THAT(ListIds(), ElementsAre("a", "b", "c", "d", "default"));
  v1::Item given;
  given.set_id("a");
  given.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(clock_->Now()) +
                                           10);
  v1::Item updated;
  ASSERT_TRUE(Update(given, {"expire_time"}, &updated).ok());
  EXPECT_EQ(updated.expire_time().seconds(), given.expire_time().seconds());
  clock_->Advance(absl::Seconds(540));
  EXPECT_THAT(ListIds(), ElementsAre("b", "c", "d"));
}

TEST_F(ItemsTest, PartsOfACollectionChange) {
  v1::Collection wanted;
  wanted.set_name("pictures");
  ASSERT_TRUE(Create(wanted).ok());
  wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
  v1::Collection changed;
  ASSERT_TRUE(UpdateCollection(wanted, {"parts"}, &changed).ok());
  EXPECT_EQ(changed.parts().dense(), v1::PartsConfig::DENSE_7X7);
  wanted.mutable_parts()->set_max_frames(5000);
  EXPECT_EQ(ViolatedField(
                UpdateCollection(wanted, {"parts"}, &changed).error_details()),
            "collection.parts.max_frames");
  wanted.clear_parts();
  ASSERT_TRUE(UpdateCollection(wanted, {"parts"}, &changed).ok());
  EXPECT_FALSE(changed.has_parts());
}

TEST_F(ItemsTest, SettingsOfACollectionChange) {
  v1::Collection wanted;
  wanted.set_name("f");
  wanted.set_description("shelves");
  Declare("colour", v1::PayloadField::TYPE_STRING, wanted);
  v1::Collection changed;
  ASSERT_TRUE(
      UpdateCollection(wanted, {"description", "payload_fields"}, &changed)
          .ok());
  EXPECT_EQ(changed.description(), "shelves");
  EXPECT_EQ(changed.payload_fields_size(), 1);
  EXPECT_EQ(changed.status().item_count(), 5);
  v1::ListItemsRequest request;
  request.set_collection("f");
  request.set_filter("shelf = 1");
  v1::ListItemsResponse response;
  EXPECT_EQ(ViolatedField(List(request, &response).error_details()), "filter");

  EXPECT_EQ(
      ViolatedField(UpdateCollection(wanted, {}, &changed).error_details()),
      "update_mask");
  EXPECT_EQ(
      ViolatedField(
          UpdateCollection(wanted, {"dimension"}, &changed).error_details()),
      "update_mask");
  const std::vector<
      std::pair<std::string, std::function<void(v1::Collection&)>>>
      bad = {
          {"collection.payload_fields[1].path",
           [](auto& c) { Declare("colour", v1::PayloadField::TYPE_BOOL, c); }},
          {"collection.payload_fields[1].path",
           [](auto& c) { Declare("", v1::PayloadField::TYPE_BOOL, c); }},
          {"collection.payload_fields[1].path",
           [](auto& c) { Declare("a..b", v1::PayloadField::TYPE_BOOL, c); }},
          {"collection.payload_fields[1].path",
           [](auto& c) {
             Declare(std::string(257, 'p'), v1::PayloadField::TYPE_BOOL, c);
           }},
          {"collection.payload_fields[1].type",
           [](auto& c) {
             Declare("x", v1::PayloadField::TYPE_UNSPECIFIED, c);
           }},
          {"collection.payload_fields",
           [](auto& c) {
             for (int i = 0; i < 64; ++i) {
               Declare(absl::StrCat("x", i), v1::PayloadField::TYPE_BOOL, c);
             }
           }},
          {"collection.ttl", [](auto& c) { c.mutable_ttl()->set_seconds(-1); }},
          {"collection.description",
           [](auto& c) { c.set_description(std::string(1025, 'd')); }}};
  for (const auto& [field, change] : bad) {
    v1::Collection broken = wanted;
    change(broken);
    EXPECT_EQ(
        ViolatedField(UpdateCollection(broken,
                                       {"description", "payload_fields", "ttl"},
                                       &changed)
                          .error_details()),
        field);
    broken.set_name("g");
    broken.set_model("none");
    broken.set_dimension(2);
    EXPECT_EQ(ViolatedField(Create(broken).error_details()), field);
  }
}

TEST_F(ServicesTest, CollectionsAreListedInPages) {
  for (const char* name : {"b", "a", "c"}) ASSERT_TRUE(Create(name).ok());
  EXPECT_EQ(Create("a").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  v1::ListCollectionsRequest request;
  request.set_page_size(2);
  v1::ListCollectionsResponse response;
  const auto list = [&] {
    return Call(v1::Collections::NewStub(channel_),
                &v1::Collections::Stub::List, request, &response);
  };
  ASSERT_TRUE(list().ok());
  ASSERT_EQ(response.collections_size(), 2);
  EXPECT_EQ(response.collections(1).name(), "b");
  request.set_page_token(response.next_page_token());
  ASSERT_TRUE(list().ok());
  ASSERT_EQ(response.collections_size(), 1);
  EXPECT_EQ(response.collections(0).name(), "c");
  EXPECT_EQ(response.next_page_token(), "");

  v1::DeleteCollectionRequest erase;
  erase.set_name("b");
  v1::DeleteCollectionResponse erased;
  ASSERT_TRUE(Call(v1::Collections::NewStub(channel_),
                   &v1::Collections::Stub::Delete, erase, &erased)
                  .ok());
  v1::GetCollectionRequest get;
  get.set_name("b");
  v1::Collection collection;
  EXPECT_EQ(Call(v1::Collections::NewStub(channel_),
                 &v1::Collections::Stub::Get, get, &collection)
                .error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServicesTest, CreateRefusesPartsToSearchWhereNoneAreKept) {
  v1::Collection bare;
  bare.set_name("c");
  bare.mutable_parts()->set_frames_per_second(0);
  bare.mutable_parts()->set_searchable(true);
  const grpc::Status status = Create(bare);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()),
            "collection.parts.searchable");
  EXPECT_THAT(status.error_message(), HasSubstr("set parts.dense"));
  v1::Collection plain;
  plain.set_name("c");
  plain.mutable_index()->set_kind(v1::IndexConfig::KIND_EXACT);
  plain.mutable_index()->set_target_recall(1);
  plain.mutable_index()->set_shards(1);
  EXPECT_TRUE(Create(plain).ok());
}

TEST_F(ServicesTest, CreateTakesEveryKindOfIndexAndRefusesWhatIsOutOfRange) {
  v1::Collection good;
  good.set_name("good");
  good.mutable_index()->set_kind(v1::IndexConfig::KIND_IVF_PQ);
  good.mutable_index()->set_storage(v1::IndexConfig::STORAGE_INT8);
  good.mutable_index()->set_shards(64);
  good.mutable_index()->set_target_recall(0.99F);
  EXPECT_TRUE(Create(good).ok());
  using Change = std::function<void(v1::IndexConfig&)>;
  const std::vector<std::pair<std::string, Change>> changes = {
      {"kind",
       [](auto& i) { i.set_kind(static_cast<v1::IndexConfig::Kind>(9)); }},
      {"storage",
       [](auto& i) {
         i.set_storage(static_cast<v1::IndexConfig::Storage>(9));
       }},
      {"shards", [](auto& i) { i.set_shards(0); }},
      {"shards", [](auto& i) { i.set_shards(65); }},
      {"target_recall", [](auto& i) { i.set_target_recall(0); }},
      {"target_recall", [](auto& i) { i.set_target_recall(1.5F); }},
      {"target_recall", [](auto& i) { i.set_target_recall(std::nanf("")); }}};
  for (const auto& [field, change] : changes) {
    v1::Collection bad;
    bad.set_name("bad");
    change(*bad.mutable_index());
    const grpc::Status status = Create(bad);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(ViolatedField(status.error_details()),
              absl::StrCat("collection.index.", field));
  }
}

TEST_F(ServicesTest, SearchesForKindsOfItemsAndSaysHow) {
  FillCollection();
  v1::SearchRequest request = TextSearch("c", "red");
  request.add_modalities(v1::MODALITY_TEXT);
  request.set_exact(true);
  request.set_recall(0.9F);
  request.set_explain(true);
  v1::SearchResponse response;
  ASSERT_TRUE(Search(request, &response).ok());
  for (const v1::Hit& hit : response.hits()) {
    EXPECT_EQ(hit.item().modality(), v1::MODALITY_TEXT);
  }
  EXPECT_FALSE(response.report().explanation().empty());
  EXPECT_FALSE(response.report().degraded());
  EXPECT_EQ(response.report().shards_answered(),
            response.report().shards_asked());
  request.add_modalities(v1::MODALITY_UNSPECIFIED);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "modalities[1]");
  request.mutable_modalities()->RemoveLast();
  request.set_filter("year > 2020");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "filter");
}

TEST_F(ServicesTest, ModelsAreDescribed) {
  v1::ListModelsResponse list;
  ASSERT_TRUE(Call(v1::Models::NewStub(channel_), &v1::Models::Stub::List,
                   v1::ListModelsRequest(), &list)
                  .ok());
  ASSERT_EQ(list.models_size(), 1);
  const v1::Model& model = list.models(0);
  EXPECT_EQ(model.name(), "fake");
  EXPECT_TRUE(model.is_default());
  EXPECT_EQ(model.dimension(), kFakeDimension);
  EXPECT_EQ(model.image_width(), 16);
  EXPECT_EQ(model.max_tokens(), 16);
  EXPECT_THAT(
      model.modalities(),
      ElementsAre(v1::MODALITY_TEXT, v1::MODALITY_IMAGE, v1::MODALITY_VIDEO));
  v1::GetModelRequest get;
  v1::Model found;
  EXPECT_TRUE(
      Call(v1::Models::NewStub(channel_), &v1::Models::Stub::Get, get, &found)
          .ok());
  get.set_name("nobody");
  EXPECT_EQ(
      Call(v1::Models::NewStub(channel_), &v1::Models::Stub::Get, get, &found)
          .error_code(),
      grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServicesTest, RequestIdsComeBack) {
  const auto id_of = [this](const std::string& given) -> std::string {
    grpc::ClientContext context;
    if (!given.empty()) context.AddMetadata("x-request-id", given);
    v1::ListModelsResponse response;
    EXPECT_TRUE(
        v1::Models::NewStub(channel_)->List(&context, {}, &response).ok());
    const auto found = context.GetServerInitialMetadata().find("x-request-id");
    if (found == context.GetServerInitialMetadata().end()) return "";
    return {found->second.data(), found->second.size()};
  };
  EXPECT_EQ(id_of("my-id 1"), "my-id 1");
  const std::string made = id_of("");
  EXPECT_THAT(made, SizeIs(16));
  EXPECT_NE(id_of(""), made);
  EXPECT_THAT(id_of(std::string(129, 'x')), SizeIs(16));
}

TEST_F(ServicesTest, MetricsCountCallsStagesBytesAndItems) {
  FillCollection();
  v1::SearchResponse response;
  ASSERT_TRUE(Search(TextSearch("c", "red"), &response).ok());
  EXPECT_FALSE(Search(TextSearch("nowhere", "red"), &response).ok());
  server_->Shutdown();  // Calls count once gRPC is done with them.
  const std::string metrics = ScrapeMetrics();
  for (const char* line :
       {"quern_requests_total{code=\"OK\",method=\"quern.v1.Retrieval/"
        "Search\"} 1",
        "quern_requests_total{code=\"NOT_FOUND\",method=\"quern.v1.Retrieval/"
        "Search\"} 1",
        "quern_request_seconds_count{method=\"quern.v1.Retrieval/Search\"} 2",
        "quern_stage_seconds_count{method=\"quern.v1.Retrieval/Search\","
        "stage=\"encode\"} 1",
        "quern_upserted_items_total{code=\"OK\"} 3",
        "quern_collection_items{collection=\"c\"} 3",
        "quern_collection_disk_bytes{collection=\"c\"}",
        "quern_collection_memory_bytes{collection=\"c\"}",
        "quern_received_bytes_total{method=\"quern.v1.Items/Upsert\"}",
        "quern_sent_bytes_total{method=\"quern.v1.Items/Upsert\"}",
        "quern_vector_cache_lookups_total{result=\"hit\"}",
        "quern_vector_cache_lookups_total{result=\"miss\"}",
        "quern_vector_cache_bytes", "quern_pool_queue_depth 0",
        "quern_build_info{version=", "process_resident_memory_bytes"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

class SmallMessagesTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.mutable_server()->set_max_message_bytes(64 << 10);
    config_.mutable_limits()->set_max_text_bytes(1 << 20);
    StartServer();
    ASSERT_TRUE(Create("c").ok());
  }
};

TEST_F(SmallMessagesTest, AMessageOverTheLimitIsRefused) {
  v1::SearchResponse response;
  const grpc::Status status =
      Search(TextSearch("c", std::string(70'000, 'x')), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("65536"));

  grpc::Status stream_status;
  Upsert({TextItem("c", "a", std::string(70'000, 'x'))}, &stream_status);
  EXPECT_EQ(stream_status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(SmallMessagesTest, APageEndsBeforeTheMessageIsTooLong) {
  std::vector<v1::UpsertRequest> requests;
  for (int i = 0; i < 10; ++i) {
    requests.push_back(TextItem("c", absl::StrCat(i), "red"));
    (*requests.back().mutable_payload()->mutable_fields())["x"]
        .set_string_value(std::string(20'000, 'x'));
  }
  grpc::Status status;
  Upsert(requests, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  v1::ListItemsRequest list;
  list.set_collection("c");
  std::set<std::string> ids;
  do {
    v1::ListItemsResponse page;
    ASSERT_TRUE(
        Call(v1::Items::NewStub(channel_), &v1::Items::Stub::List, list, &page)
            .ok());
    for (const v1::Item& item : page.items()) ids.insert(item.id());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  EXPECT_THAT(ids, SizeIs(10));

  v1::SearchResponse response;
  const grpc::Status search = Search(TextSearch("c", "red"), &response);
  EXPECT_EQ(search.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(search.error_message(), HasSubstr("server.max_message_bytes"));
}

}  // namespace
}  // namespace quern
