// Starting, stopping, deadlines, cancellation, overload.

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "absl/synchronization/blocking_counter.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

namespace health = ::grpc::health::v1;

class LifecycleTest : public ServerTest {
 protected:
  health::HealthCheckResponse::ServingStatus Health(
      const std::string& service) {
    health::HealthCheckRequest request;
    request.set_service(service);
    health::HealthCheckResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        health::Health::NewStub(channel_)->Check(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }

  // Starts a call that stands at the gate.
  void StartGatedCall() {
    gated_call_ = std::thread([this] {
      v1::EmbedResponse response;
      gated_status_ = v1::Embedding::NewStub(channel_)->Embed(
          &gated_context_, GateRequest(), &response);
    });
    decoder_->WaitUntilReached();
  }

  // Starts a call that keeps a thread of the server at the gate.
  void StartThreadHoldingCall() {
    ASSERT_TRUE(Create("c").ok());
    gated_call_ = std::thread([this] {
      v1::GetItemRequest request;
      request.set_collection("c");
      request.set_id("gate");
      v1::Item item;
      gated_status_ =
          v1::Items::NewStub(channel_)->Get(&gated_context_, request, &item);
    });
    gate_.reached.WaitForNotification();
  }

  // Likewise, a search that begins with a read of the item "gate".
  void StartGatedSearch() {
    ASSERT_TRUE(Create("c").ok());
    grpc::Status status;
    Upsert({TextItem("c", "gate", "red")}, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
    gated_call_ = std::thread([this] {
      v1::SearchRequest request;
      request.set_collection("c");
      request.mutable_query()->add_parts()->set_item_id("gate");
      v1::SearchResponse response;
      gated_status_ = v1::Retrieval::NewStub(channel_)->Search(
          &gated_context_, request, &response);
    });
    gate_.reached.WaitForNotification();
  }

  grpc::ClientContext gated_context_;
  grpc::Status gated_status_;  // Valid once `gated_call_` was joined.
  std::thread gated_call_;
};

TEST_F(LifecycleTest, HealthIsKnownByName) {
  StartServer();
  for (const char* service :
       {"", "quern.v1.Retrieval", "quern.v1.Embedding", "quern.v1.Items",
        "quern.v1.Collections", "quern.v1.Models", "quern.v1.Grounding",
        "quern.v1.Categories", "quern.v1.Scoring"}) {
    EXPECT_EQ(Health(service), health::HealthCheckResponse::SERVING) << service;
  }
}

TEST_F(LifecycleTest, ReflectionListsAndDescribesTheServices) {
  StartServer();
  const std::string method =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  std::string response;
  // list_services is field 7 of the request.
  ASSERT_TRUE(RawCall(method, std::string("\x3a\0", 2), &response).ok());
  EXPECT_THAT(response, AllOf(HasSubstr("quern.v1.Retrieval"),
                              HasSubstr("quern.v1.Scoring"),
                              HasSubstr("grpc.health.v1.Health")));
  // file_containing_symbol is field 4.
  const std::string symbol = "grpc.health.v1.Health";
  ASSERT_TRUE(
      RawCall(
          method,
          "\x22" + std::string(1, static_cast<char>(symbol.size())) + symbol,
          &response)
          .ok());
  EXPECT_THAT(response, HasSubstr("HealthCheckRequest"));
}

TEST_F(LifecycleTest, DrainingSaysNotServingRefusesAndLetsCallsFinish) {
  StartServer();
  StartGatedCall();
  std::thread stops([this] { server_->Shutdown(); });
  while (Health("") == health::HealthCheckResponse::SERVING) {
  }
  EXPECT_EQ(Health("quern.v1.Items"), health::HealthCheckResponse::NOT_SERVING);
  grpc::Status refused;
  do {  // Health changes first.
    v1::SearchResponse response;
    refused = Search(TextSearch("c", "red"), &response);
  } while (refused.error_code() == grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  decoder_->Open();
  gated_call_.join();
  stops.join();
  EXPECT_TRUE(gated_status_.ok()) << gated_status_.error_message();
}

TEST_F(LifecycleTest, CallsThatOutlastTheDrainAreCancelled) {
  config_.mutable_server()->mutable_drain_timeout()->set_seconds(0);
  StartServer();
  StartGatedCall();
  std::thread stops([this] { server_->Shutdown(); });
  gated_call_.join();
  EXPECT_FALSE(gated_status_.ok());
  decoder_->Open();
  stops.join();
  EXPECT_THAT(ScrapeMetrics(), HasSubstr("code=\"CANCELLED\""));
}

TEST_F(LifecycleTest, CancelCallsEndsALongDrain) {
  StartServer();
  StartGatedCall();
  std::thread stops([this] { server_->Shutdown(); });
  while (Health("") == health::HealthCheckResponse::SERVING) {
  }
  server_->CancelCalls();
  decoder_->Open();
  gated_call_.join();
  stops.join();
  EXPECT_FALSE(gated_status_.ok());
}

TEST_F(LifecycleTest, AnOpenStreamDoesNotKeepTheServer) {
  config_.mutable_server()->mutable_drain_timeout()->set_seconds(0);
  StartServer();
  ASSERT_TRUE(Create("c").ok());
  grpc::ClientContext context;
  auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
  ASSERT_TRUE(stream->Write(TextItem("c", "a", "red")));
  v1::UpsertResponse response;
  ASSERT_TRUE(stream->Read(&response));
  server_->Shutdown();
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(LifecycleTest, ACancelledCallStopsAtItsNextStage) {
  StartServer();
  StartGatedCall();
  gated_context_.TryCancel();
  gated_call_.join();
  EXPECT_EQ(gated_status_.error_code(), grpc::StatusCode::CANCELLED);
  // Answers on the same connection come after the cancellation.
  for (int i = 0; i < 20; ++i) Health("");
  decoder_->Open();
  server_->Shutdown();
  EXPECT_THAT(ScrapeMetrics(),
              HasSubstr("quern_requests_total{code=\"CANCELLED\","
                        "method=\"quern.v1.Embedding/Embed\"} 1"));
}

// It runs on a thread of gRPC's.
TEST_F(LifecycleTest, ACancelledSearchStopsAtItsNextStage) {
  StartServer();
  StartGatedSearch();
  gated_context_.TryCancel();
  gated_call_.join();
  EXPECT_EQ(gated_status_.error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 20; ++i) Health("");
  gate_.open.Notify();
  server_->Shutdown();
  EXPECT_THAT(ScrapeMetrics(),
              HasSubstr("quern_requests_total{code=\"CANCELLED\","
                        "method=\"quern.v1.Retrieval/Search\"} 1"));
}

TEST_F(LifecycleTest, ASearchThatTakesLongKeepsNobodyElseWaiting) {
  config_.mutable_server()->set_threads(1);
  StartServer();
  StartGatedSearch();
  grpc::Status status;
  Upsert({TextItem("c", "other", "blue")}, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  for (int i = 0; i < 20; ++i) {
    v1::SearchResponse response;
    EXPECT_TRUE(Search(TextSearch("c", "blue"), &response).ok());
    EXPECT_EQ(response.hits(0).item().id(), "other");
  }
  gate_.open.Notify();
  gated_call_.join();
  EXPECT_TRUE(gated_status_.ok()) << gated_status_.error_message();
}

TEST_F(LifecycleTest, ADeadlineThatPassesInTheQueueStopsTheCall) {
  config_.mutable_server()->set_threads(1);
  StartServer();
  StartThreadHoldingCall();
  grpc::Status status;
  std::thread queued([this, &status] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::minutes(10));
    v1::EmbedRequest request;
    request.add_inputs()->set_text("red");
    v1::EmbedResponse response;
    status =
        v1::Embedding::NewStub(channel_)->Embed(&context, request, &response);
  });
  clock_->Advance(absl::Hours(1));
  gate_.open.Notify();
  queued.join();
  gated_call_.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("before work began"));
  EXPECT_EQ(gated_status_.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LifecycleTest, AFullQueueRefusesWithAHintWhenToRetry) {
  config_.mutable_server()->set_threads(1);
  config_.mutable_server()->set_max_queued_requests(1);
  StartServer();
  StartThreadHoldingCall();
  // One of two takes the only place; the other is refused at once.
  absl::Notification one_refused;
  std::atomic<int> refused = 0;
  const auto embed = [&] {
    v1::EmbedRequest request;
    request.add_inputs()->set_text("red");
    v1::EmbedResponse response;
    const grpc::Status status = Embed(request, &response);
    if (status.ok()) return;
    ++refused;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_details(), HasSubstr("google.rpc.RetryInfo"));
    one_refused.Notify();
  };
  std::thread first(embed), second(embed);
  one_refused.WaitForNotification();
  gate_.open.Notify();
  first.join();
  second.join();
  gated_call_.join();
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(gated_status_.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LifecycleTest, APortInUseIsNamed) {
  StartServer();
  TemporaryDirectory other_data;
  v1::Config other = config_;
  other.mutable_storage()->set_path(other_data.path());
  other.mutable_server()->set_address(server_->address());
  EXPECT_THAT(
      Server::Create(other, MakeBackends()),
      StatusIs(absl::StatusCode::kUnavailable,
               AllOf(HasSubstr(server_->address()), HasSubstr("in use"))));
  other.mutable_server()->set_address("127.0.0.1:0");
  other.mutable_metrics()->set_address(server_->metrics_address());
  EXPECT_THAT(Server::Create(other, MakeBackends()),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr(server_->metrics_address())));
}

TEST_F(LifecycleTest, ADataFolderInUseIsNamed) {
  StartServer();
  EXPECT_THAT(
      Server::Create(config_, MakeBackends()),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(data_.path())));
}

}  // namespace
}  // namespace quern
