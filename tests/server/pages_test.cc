// Pages and groups of hits, and many searches in one call.

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Item i of 100 is the better the smaller i is; albums are a, b, a, c, a, b,
// ...
class PagesTest : public ServerTest {
 protected:
  static constexpr int kItems = 100;

  void SetUp() override {
    StartServer();
    CreateFilled("c");
  }

  void CreateFilled(const std::string& name) {
    v1::Collection collection;
    collection.set_name(name);
    collection.set_model("none");
    collection.set_dimension(2);
    ASSERT_TRUE(Create(collection).ok());
    std::vector<v1::UpsertRequest> requests;
    for (int i = 0; i < kItems; ++i) requests.push_back(NumberedItem(name, i));
    grpc::Status status;
    Upsert(requests, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  static std::string AlbumOf(int number) {
    if (number % 2 == 0) return "a";
    return number % 4 == 1 ? "b" : "c";
  }

  static v1::UpsertRequest NumberedItem(const std::string& collection,
                                        int number) {
    v1::UpsertRequest request;
    request.set_collection(collection);
    request.set_id(absl::StrCat(number));
    const double angle = 0.015 * number;
    request.mutable_embedding()->add_values(
        static_cast<float>(std::cos(angle)));
    request.mutable_embedding()->add_values(
        static_cast<float>(std::sin(angle)));
    auto& fields = *request.mutable_payload()->mutable_fields();
    (*fields["album"].mutable_struct_value()->mutable_fields())["name"]
        .set_string_value(AlbumOf(number));
    fields["third"].set_number_value(number / 3);
    if (number == 7) fields["rare"].set_bool_value(true);
    return request;
  }

  static v1::SearchRequest First(int page_size) {
    v1::SearchRequest request;
    request.set_collection("c");
    request.set_page_size(page_size);
    auto& embedding =
        *request.mutable_query()->add_parts()->mutable_embedding();
    embedding.add_values(1);
    embedding.add_values(0);
    return request;
  }

  std::vector<int> Ids(const v1::SearchRequest& request,
                       std::string* token = nullptr) {
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::vector<int> ids;
    for (const v1::Hit& hit : response.hits()) {
      ids.push_back(std::stoi(hit.item().id()));
    }
    if (token != nullptr) *token = response.next_page_token();
    return ids;
  }

  void ExpectBadToken(const v1::SearchRequest& request,
                      const std::string& reason) {
    v1::SearchResponse response;
    const grpc::Status status = Search(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ViolatedField(status.error_details()), "page_token");
    EXPECT_THAT(status.error_message(), HasSubstr(reason));
  }
};

TEST_F(PagesTest, PagesTogetherAreTheWholeList) {
  for (const int page_size : {1, 7, 50, 99, 100, 1000}) {
    v1::SearchRequest request = First(page_size);
    std::vector<int> ids;
    int pages = 0;
    do {
      std::string token;
      const std::vector<int> page = Ids(request, &token);
      EXPECT_LE(static_cast<int>(page.size()), page_size);
      ids.insert(ids.end(), page.begin(), page.end());
      request.set_page_token(token);
      ++pages;
    } while (!request.page_token().empty());
    ASSERT_THAT(ids, SizeIs(kItems));
    for (int i = 0; i < kItems; ++i) EXPECT_EQ(ids[i], i);
    EXPECT_EQ(pages, (kItems + page_size - 1) / page_size);
  }
}

class ShortPagesTest : public PagesTest {
 protected:
  void SetUp() override {
    config_.mutable_limits()->set_max_page_size(10);
    PagesTest::SetUp();
  }
};

TEST_F(ShortPagesTest, PagesEndAtTheLargestPage) {
  v1::SearchRequest request = First(7);
  std::string token;
  EXPECT_THAT(Ids(request, &token), SizeIs(7));
  request.set_page_token(token);
  EXPECT_THAT(Ids(request, &token), ElementsAre(7, 8, 9));
  EXPECT_EQ(token, "");
}

TEST_F(PagesTest, MinScoreEndsThePages) {
  v1::SearchRequest request = First(4);
  request.set_min_score(static_cast<float>(std::cos(0.015 * 5.5)));
  std::string token;
  EXPECT_THAT(Ids(request, &token), ElementsAre(0, 1, 2, 3));
  request.set_page_token(token);
  EXPECT_THAT(Ids(request, &token), ElementsAre(4, 5));
  EXPECT_EQ(token, "");
}

TEST_F(PagesTest, ATokenIsBoundToItsRequest) {
  CreateFilled("other");
  const v1::SearchRequest first = First(10);
  std::string token;
  Ids(first, &token);
  v1::SearchRequest next = first;
  next.set_page_token(token);
  EXPECT_THAT(Ids(next), SizeIs(10));

  v1::SearchRequest other = next;
  other.set_collection("other");
  ExpectBadToken(other, "another query or collection");
  other = next;
  other.mutable_query()->mutable_parts(0)->mutable_embedding()->set_values(1,
                                                                           0.5);
  ExpectBadToken(other, "another query or collection");
  other = next;
  other.set_page_size(11);
  ExpectBadToken(other, "another query or collection");
  other = next;
  other.mutable_group_by()->set_field("album.name");
  ExpectBadToken(other, "another query or collection");
  for (const std::string& bad : {std::string("x"), token + "xxxx",
                                 token.substr(1), std::string(5000, 'A')}) {
    other.CopyFrom(first);
    other.set_page_token(bad);
    v1::SearchResponse response;
    EXPECT_EQ(Search(other, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(PagesTest, ATokenOfAnOlderStateIsRefusedWithTheReason) {
  v1::SearchRequest request = First(10);
  std::string token;
  Ids(request, &token);
  request.set_page_token(token);
  EXPECT_THAT(Ids(request), SizeIs(10));
  grpc::Status status;
  Upsert({NumberedItem("c", 3)}, &status);
  ASSERT_TRUE(status.ok());
  ExpectBadToken(request, "older state of collection \"c\"");

  // A new collection of the name is not the old one, even if it looks like it.
  request.clear_page_token();
  Ids(request, &token);
  request.set_page_token(token);
  v1::DeleteCollectionRequest remove;
  remove.set_name("c");
  v1::DeleteCollectionResponse removed;
  ASSERT_TRUE(Call(v1::Collections::NewStub(channel_),
                   &v1::Collections::Stub::Delete, remove, &removed)
                  .ok());
  clock_->Advance(absl::Seconds(1));
  CreateFilled("c");
  Upsert({NumberedItem("c", 3)}, &status);
  ExpectBadToken(request, "older state of collection \"c\"");
}

TEST_F(PagesTest, GroupsHaveTheirBestHits) {
  v1::SearchRequest request = First(10);
  request.mutable_group_by()->set_field("album.name");
  std::string token;
  EXPECT_THAT(Ids(request, &token), ElementsAre(0, 1, 3));
  EXPECT_EQ(token, "");
  request.mutable_group_by()->set_size(2);
  EXPECT_THAT(Ids(request), ElementsAre(0, 1, 2, 3, 5, 7));
  // Far down the list: all is looked at until there are enough.
  request.mutable_group_by()->set_field("third");
  request.mutable_group_by()->set_size(1);
  EXPECT_THAT(Ids(request, &token),
              ElementsAre(0, 3, 6, 9, 12, 15, 18, 21, 24, 27));
  request.set_page_token(token);
  EXPECT_THAT(Ids(request, &token),
              ElementsAre(30, 33, 36, 39, 42, 45, 48, 51, 54, 57));
  // Items without the field are left out.
  request.clear_page_token();
  request.mutable_group_by()->set_field("rare");
  EXPECT_THAT(Ids(request), ElementsAre(7));
  request.mutable_group_by()->set_field("nowhere.at.all");
  EXPECT_THAT(Ids(request), IsEmpty());
  // An object is no value.
  request.mutable_group_by()->set_field("album");
  EXPECT_THAT(Ids(request), IsEmpty());
}

TEST_F(PagesTest, GroupsThatAreNone) {
  v1::SearchResponse response;
  for (const std::string& field :
       {std::string(), std::string("."), std::string("a..b"),
        std::string(257, 'x')}) {
    v1::SearchRequest request = First(10);
    request.mutable_group_by()->set_field(field);
    const grpc::Status status = Search(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ViolatedField(status.error_details()), "group_by.field");
  }
  for (const int size : {0, -1, 101}) {
    v1::SearchRequest request = First(10);
    request.mutable_group_by()->set_field("third");
    request.mutable_group_by()->set_size(size);
    const grpc::Status status = Search(request, &response);
    EXPECT_EQ(ViolatedField(status.error_details()), "group_by.size");
  }
}

class BatchSearchTest : public PagesTest {
 protected:
  grpc::Status BatchSearch(const v1::BatchSearchRequest& request,
                           v1::BatchSearchResponse* response) {
    return Call(v1::Retrieval::NewStub(channel_),
                &v1::Retrieval::Stub::BatchSearch, request, response);
  }
};

TEST_F(BatchSearchTest, EachResultIsThatOfItsSearch) {
  v1::BatchSearchRequest batch;
  batch.set_collection("c");
  for (int i = 0; i < 40; ++i) {
    v1::SearchRequest& one = *batch.add_requests();
    one = First(1 + i % 7);
    if (i % 2 == 0) one.clear_collection();
    one.mutable_query()->mutable_parts(0)->mutable_embedding()->set_values(
        1, 0.05F * static_cast<float>(i));
  }
  v1::BatchSearchResponse response;
  const grpc::Status status = BatchSearch(batch, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.results_size(), 40);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(response.results(i).status().code(), 0);
    v1::SearchRequest one = batch.requests(i);
    one.set_collection("c");
    v1::SearchResponse alone;
    ASSERT_TRUE(Search(one, &alone).ok());
    const v1::SearchResponse& together = response.results(i).response();
    ASSERT_EQ(together.hits_size(), alone.hits_size());
    for (int hit = 0; hit < alone.hits_size(); ++hit) {
      EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
          together.hits(hit), alone.hits(hit)))
          << i << " " << hit;
    }
    // Its next page can be asked for alone.
    EXPECT_EQ(together.next_page_token(), alone.next_page_token());
  }
}

// Searches that want different things of the index, some of them in error, all
// mixed: each result is what its search gives alone.
TEST_F(BatchSearchTest, MixedSearchesAreEachAnsweredAsAlone) {
  v1::Collection collection;
  collection.set_name("mixed");
  collection.set_model("fake");
  v1::PayloadField& field = *collection.add_payload_fields();
  field.set_path("third");
  field.set_type(v1::PayloadField::TYPE_NUMBER);
  ASSERT_TRUE(Create(collection).ok());
  std::vector<v1::UpsertRequest> items;
  for (int i = 0; i < 60; ++i) {
    v1::UpsertRequest& item = items.emplace_back();
    item.set_collection("mixed");
    item.set_id(absl::StrCat("t", i));
    item.set_text(absl::StrCat("a picture of ", i));
    (*item.mutable_payload()->mutable_fields())["third"].set_number_value(i /
                                                                          3);
  }
  grpc::Status upserted;
  Upsert(items, &upserted);
  ASSERT_TRUE(upserted.ok()) << upserted.error_message();

  v1::BatchSearchRequest batch;
  batch.set_collection("mixed");
  v1::SearchResponse page;
  for (int i = 0; i < 150; ++i) {
    v1::SearchRequest& one = *batch.add_requests();
    one.set_collection("mixed");
    one.set_page_size(1 + i % 3);
    v1::QueryPart& part = *one.mutable_query()->add_parts();
    part.set_text(absl::StrCat("a picture of ", i));
    switch (i % 15) {
      case 1:
        one.set_filter("third < 5");
        break;
      case 2:
        one.set_filter("third >= ");
        break;
      case 3:
        one.set_exact(true);
        break;
      case 4:
        one.set_page_size(-1);
        break;
      case 5:
        one.mutable_group_by()->set_field("third");
        break;
      case 6:
        part.set_item_id(absl::StrCat("t", i % 60));
        break;
      case 7:
        part.set_item_id("none");
        break;
      case 8:
        one.set_explain(true);
        break;
      case 9:
        one.set_min_score(0.5F);
        break;
      case 10:
        one.add_modalities(v1::MODALITY_IMAGE);
        break;
      case 11:
        part.mutable_embedding()->add_values(1);
        break;
      case 12:
        one.mutable_read_mask()->add_paths("id");
        break;
      case 13:
        ASSERT_TRUE(Search(one, &page).ok());
        one.set_page_token(page.next_page_token());
        break;
      default:
        break;
    }
  }
  v1::BatchSearchResponse response;
  const grpc::Status status = BatchSearch(batch, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.results_size(), batch.requests_size());
  int failed = 0;
  for (int i = 0; i < batch.requests_size(); ++i) {
    SCOPED_TRACE(batch.requests(i).ShortDebugString());
    v1::SearchResponse alone;
    const grpc::Status alone_status = Search(batch.requests(i), &alone);
    const v1::BatchSearchResult& together = response.results(i);
    ASSERT_EQ(together.status().code(), alone_status.error_code())
        << together.status().message();
    EXPECT_EQ(together.status().message(), alone_status.error_message());
    failed += alone_status.ok() ? 0 : 1;
    // Times are its own.
    alone.mutable_report()->clear_stages();
    v1::SearchResponse timeless = together.response();
    timeless.mutable_report()->clear_stages();
    EXPECT_TRUE(
        google::protobuf::util::MessageDifferencer::Equals(timeless, alone));
  }
  EXPECT_EQ(failed, 40);
}

TEST_F(BatchSearchTest, ABadSearchFailsAlone) {
  v1::BatchSearchRequest batch;
  batch.set_collection("c");
  *batch.add_requests() = First(3);
  *batch.add_requests() = First(0);
  *batch.add_requests() = First(3);
  batch.mutable_requests(2)->set_collection("other");
  *batch.add_requests() = First(3);
  batch.mutable_requests(3)->mutable_query()->mutable_parts(0)->set_text("red");
  v1::BatchSearchResponse response;
  ASSERT_TRUE(BatchSearch(batch, &response).ok());
  std::vector<int> codes;
  for (const auto& result : response.results()) {
    codes.push_back(result.status().code());
    EXPECT_EQ(result.has_response(), result.status().code() == 0);
  }
  EXPECT_THAT(codes, ElementsAre(0, grpc::StatusCode::INVALID_ARGUMENT,
                                 grpc::StatusCode::INVALID_ARGUMENT,
                                 grpc::StatusCode::FAILED_PRECONDITION));
}

TEST_F(BatchSearchTest, SizesAndNamesThatAreNone) {
  v1::BatchSearchRequest batch;
  v1::BatchSearchResponse response;
  *batch.add_requests() = First(3);
  grpc::Status status = BatchSearch(batch, &response);
  EXPECT_EQ(ViolatedField(status.error_details()), "collection");
  batch.set_collection("c");
  batch.clear_requests();
  status = BatchSearch(batch, &response);
  EXPECT_EQ(ViolatedField(status.error_details()), "requests");
  for (int i = 0; i < 1025; ++i) batch.add_requests();
  status = BatchSearch(batch, &response);
  EXPECT_EQ(ViolatedField(status.error_details()), "requests");
  EXPECT_THAT(status.error_message(), HasSubstr("1 to 1024"));
}

}  // namespace
}  // namespace quern
