#include "client/cpp/client.h"

#include <vector>

#include <gtest/gtest.h>

#include "tests/client/fake_server.h"

namespace quern {
namespace {

v1::SearchRequest SearchFor(const std::string& text) {
  v1::SearchRequest request;
  request.set_collection("photos");
  request.mutable_query()->add_parts()->set_text(text);
  request.set_page_size(3);
  return request;
}

class ClientTest : public testing::Test {
 protected:
  ClientTest() { server_.AddCollection("photos"); }

  std::unique_ptr<Client> MakeClient() {
    ClientOptions options;
    options.address = server_.address();
    options.sleep = [this](absl::Duration delay) { waits_.push_back(delay); };
    return *Client::Create(std::move(options));
  }

  FakeServer server_;
  std::vector<absl::Duration> waits_;
};

TEST_F(ClientTest, RejectsOptionsOutOfRange) {
  const auto is_rejected = [](const ClientOptions& options) {
    return absl::IsInvalidArgument(Client::Create(options).status());
  };
  ClientOptions options;
  options.address = "";
  EXPECT_TRUE(is_rejected(options));
  options = {};
  options.timeout = absl::ZeroDuration();
  EXPECT_TRUE(is_rejected(options));
  options = {};
  options.retry.max_attempts = 0;
  EXPECT_TRUE(is_rejected(options));
}

TEST_F(ClientTest, RepeatsASearchThatFoundTheServerDown) {
  server_.FailSearches(2, {grpc::StatusCode::UNAVAILABLE, "restarting"});
  EXPECT_TRUE(MakeClient()->Search(SearchFor("dog")).ok());
  EXPECT_EQ(server_.searches(), 3);
  EXPECT_EQ(waits_.size(), 2);
}

TEST_F(ClientTest, StopsRepeatingAfterTheLastAttempt) {
  server_.FailSearches(100, {grpc::StatusCode::UNAVAILABLE, "restarting"});
  EXPECT_TRUE(
      absl::IsUnavailable(MakeClient()->Search(SearchFor("dog")).status()));
  EXPECT_EQ(server_.searches(), client::RetryOptions().max_attempts);
}

TEST_F(ClientTest, DoesNotRepeatARefusedSearch) {
  server_.FailSearches(1, {grpc::StatusCode::INVALID_ARGUMENT, "no"});
  EXPECT_TRUE(
      absl::IsInvalidArgument(MakeClient()->Search(SearchFor("dog")).status()));
  EXPECT_EQ(server_.searches(), 1);
}

TEST_F(ClientTest, FollowsThePagesOfCollections) {
  server_.AddCollection("videos");
  server_.AddCollection("a");
  const auto collections = MakeClient()->ListCollections();
  ASSERT_TRUE(collections.ok()) << collections.status();
  ASSERT_EQ(collections->size(), 3);
  EXPECT_EQ((*collections)[0].name(), "a");
  EXPECT_EQ((*collections)[2].name(), "videos");
}

TEST_F(ClientTest, CreatesOnlyOnce) {
  const auto client = MakeClient();
  v1::Collection collection;
  collection.set_name("photos");
  EXPECT_TRUE(
      absl::IsAlreadyExists(client->CreateCollection(collection).status()));
}

TEST_F(ClientTest, HealthTellsServingFromNot) {
  const auto client = MakeClient();
  EXPECT_TRUE(client->CheckHealth().ok());
  server_.SetServing(false);
  EXPECT_TRUE(absl::IsUnavailable(client->CheckHealth()));
}

TEST_F(ClientTest, NothingIsSentAfterShutdown) {
  const auto client = MakeClient();
  client->Shutdown();
  EXPECT_TRUE(absl::IsCancelled(client->Search(SearchFor("dog")).status()));
  EXPECT_EQ(server_.searches(), 0);
}

}  // namespace
}  // namespace quern
