// The upsert stream: order, one bad item, backpressure, ends.

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class UpsertTest : public ServerTest {
 protected:
  void SetUp() override {
    config_.mutable_server()->set_stream_window(4);
    StartServer();
    ASSERT_TRUE(Create("c").ok());
  }
};

TEST_F(UpsertTest, AnswersInOrderBeyondTheWindow) {
  std::vector<v1::UpsertRequest> requests;
  for (int i = 0; i < 100; ++i) {
    // Only the first names the collection.
    requests.push_back(
        TextItem(i == 0 ? "c" : "", absl::StrCat("item-", i), "red"));
  }
  grpc::Status status;
  const auto responses = Upsert(requests, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(responses, SizeIs(100));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(responses[i].index(), i);
    EXPECT_EQ(responses[i].id(), absl::StrCat("item-", i));
    EXPECT_EQ(responses[i].status().code(), 0);
    EXPECT_TRUE(responses[i].created());
    EXPECT_NE(responses[i].etag(), "");
  }
  EXPECT_THAT(ScrapeMetrics(),
              HasSubstr("quern_upserted_items_total{code=\"OK\"} 100"));
}

TEST_F(UpsertTest, ServesACallerThatReadsOnlyAfterItHasSentAll) {
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
  const int count = 50;
  for (int i = 0; i < count; ++i) {
    ASSERT_TRUE(stream->Write(TextItem("c", absl::StrCat(i), "red")));
  }
  stream->WritesDone();
  v1::UpsertResponse response;
  for (int i = 0; i < count; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.index(), i);
  }
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

// The window is 4. A picture that cannot be committed yet stands first; the
// text comes only if what is between does not fill the window.
TEST_F(UpsertTest, ReadyMadeEmbeddingsFillTheWindowByTheirSize) {
  v1::UpsertRequest gate = TextItem("c", "gate", "");
  gate.mutable_image()->set_content("gate");
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
  ASSERT_TRUE(stream->Write(gate));
  const int light = 60;
  v1::UpsertRequest embedding;
  for (int i = 0; i < kFakeDimension; ++i) {
    embedding.mutable_embedding()->add_values(1);
  }
  for (int i = 0; i < light; ++i) {
    embedding.set_id(absl::StrCat(i));
    ASSERT_TRUE(stream->Write(embedding));
  }
  ASSERT_TRUE(stream->Write(TextItem("", "text", "red")));
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!absl::StrContains(
      ScrapeMetrics(), "quern_text_cache_lookups_total{result=\"miss\"} 1")) {
    ASSERT_LT(absl::Now(), deadline) << "the text was never read";
    absl::SleepFor(absl::Milliseconds(5));
  }
  decoder_->Open();
  stream->WritesDone();
  v1::UpsertResponse response;
  for (int i = 0; i < light + 2; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.index(), i);
    EXPECT_EQ(response.status().code(), 0) << response.status().message();
  }
  EXPECT_TRUE(stream->Finish().ok());
}

// Answers that come together are sent together. gRPC holds back a first one
// that is marked so for ever (grpc/grpc#12975), unless something else is sent.
TEST_F(UpsertTest, EveryStreamIsAnsweredWhateverComesTogether) {
  std::vector<v1::UpsertRequest> requests(20);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].set_id(absl::StrCat(i));
    for (int j = 0; j < kFakeDimension; ++j) {
      requests[i].mutable_embedding()->add_values(1);
    }
  }
  requests[0].set_collection("c");
  for (int stream = 0; stream < 100; ++stream) {
    grpc::Status status;
    ASSERT_THAT(Upsert(requests, &status), SizeIs(requests.size()));
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
}

TEST_F(UpsertTest, ABadItemFailsAlone) {
  v1::UpsertRequest uri = TextItem("c", "uri", "");
  uri.mutable_image()->set_uri("file.jpg");
  v1::UpsertRequest picture = TextItem("c", "picture", "");
  picture.mutable_image()->set_content("nonsense");
  v1::UpsertRequest etag = TextItem("c", "etag", "red");
  etag.set_etag("1");
  grpc::Status status;
  const auto responses = Upsert(
      {TextItem("c", "good", "red"), TextItem("d", "elsewhere", "red"), uri,
       picture, etag, TextItem("c", "", "red"), TextItem("c", "last", "red")},
      &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::vector<int> codes;
  for (const auto& response : responses) {
    codes.push_back(response.status().code());
  }
  EXPECT_THAT(codes,
              testing::ElementsAre(0, grpc::StatusCode::INVALID_ARGUMENT,
                                   grpc::StatusCode::PERMISSION_DENIED,
                                   grpc::StatusCode::INVALID_ARGUMENT,
                                   grpc::StatusCode::ABORTED,
                                   grpc::StatusCode::INVALID_ARGUMENT, 0));
  EXPECT_EQ(ViolatedField(responses[1].status().SerializeAsString()),
            "collection");
  EXPECT_THAT(responses[2].status().message(), HasSubstr("image.uri"));
  EXPECT_EQ(ViolatedField(responses[3].status().SerializeAsString()),
            "image.content");
  EXPECT_THAT(responses[4].status().message(), HasSubstr("etag"));
}

TEST_F(UpsertTest, AnEtagHoldsForTheItemAsItWasRead) {
  grpc::Status status;
  auto responses = Upsert({TextItem("c", "a", "red")}, &status);
  ASSERT_THAT(responses, SizeIs(1));
  v1::UpsertRequest first = TextItem("c", "a", "blue");
  first.set_etag(responses[0].etag());
  // Sent with the first, it comes too late.
  v1::UpsertRequest second = first;
  v1::UpsertRequest garbage = first;
  garbage.set_etag("0x!");
  responses = Upsert({first, second, garbage}, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(responses, SizeIs(3));
  EXPECT_EQ(responses[0].status().code(), 0);
  EXPECT_EQ(responses[1].status().code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(responses[1].status().message(), HasSubstr(responses[0].etag()));
  EXPECT_EQ(responses[1].etag(), "");
  EXPECT_EQ(responses[2].status().code(), grpc::StatusCode::ABORTED);
  v1::GetItemRequest get;
  get.set_collection("c");
  get.set_id("a");
  v1::Item item;
  ASSERT_TRUE(
      Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Get, get, &item)
          .ok());
  EXPECT_EQ(item.etag(), responses[0].etag());
}

TEST_F(UpsertTest, ATtlThatIsNoneIsRefused) {
  v1::UpsertRequest zero = TextItem("c", "zero", "red");
  zero.mutable_ttl();
  v1::UpsertRequest eternal = TextItem("c", "eternal", "red");
  eternal.mutable_ttl()->set_seconds(INT64_C(315'576'000'000));
  grpc::Status status;
  for (const auto& response : Upsert({zero, eternal}, &status)) {
    EXPECT_EQ(ViolatedField(response.status().SerializeAsString()), "ttl");
  }
}

TEST_F(UpsertTest, TextThatIsNotUtf8FailsTheItemButNotTheStream) {
  grpc::Status status;
  const auto responses =
      Upsert({TextItem("c", "a", "red"), TextItem("c", "b", "caf\xe9"),
              TextItem("c", "d", "red")},
             &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(responses, SizeIs(3));
  EXPECT_EQ(responses[1].status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(responses[1].status().SerializeAsString()), "text");
  EXPECT_EQ(responses[2].status().code(), 0);
}

TEST_F(UpsertTest, OfEqualIdsTheLaterWins) {
  grpc::Status status;
  const auto responses = Upsert(
      {TextItem("c", "same", "red"), TextItem("c", "same", "blue")}, &status);
  ASSERT_THAT(responses, SizeIs(2));
  EXPECT_TRUE(responses[0].created());
  EXPECT_FALSE(responses[1].created());
  v1::SearchResponse found;
  ASSERT_TRUE(Search(TextSearch("c", "blue"), &found).ok());
  ASSERT_EQ(found.hits_size(), 1);
  EXPECT_NEAR(found.hits(0).score(), 1, 1e-5);
}

TEST_F(UpsertTest, TheFirstMessageMustNameACollectionThatExists) {
  grpc::Status status;
  EXPECT_THAT(Upsert({TextItem("", "a", "red")}, &status), IsEmpty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()), "collection");
  EXPECT_THAT(Upsert({TextItem("nowhere", "a", "red")}, &status), IsEmpty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(Upsert({TextItem("caf\xe9", "a", "red")}, &status), IsEmpty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(UpsertTest, AnEmptyStreamIsFine) {
  grpc::Status status;
  EXPECT_THAT(Upsert({}, &status), IsEmpty());
  EXPECT_TRUE(status.ok());
}

TEST_F(UpsertTest, ACancelledStreamEnds) {
  v1::UpsertRequest gate = TextItem("c", "gate", "");
  gate.mutable_image()->set_content("gate");
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
  for (int i = 0; i < 10; ++i) {
    stream->Write(i == 1 ? gate : TextItem("c", absl::StrCat(i), "red"));
  }
  decoder_->WaitUntilReached();
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  decoder_->Open();
  server_->Shutdown();
  EXPECT_THAT(ScrapeMetrics(), HasSubstr("quern_calls_in_flight 0"));
}

}  // namespace
}  // namespace quern
