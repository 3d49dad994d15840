#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "quern/v1/collections.grpc.pb.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "quern/v1/grounding.grpc.pb.h"
#include "quern/v1/items.grpc.pb.h"
#include "quern/v1/models.grpc.pb.h"
#include "quern/v1/retrieval.grpc.pb.h"
#include "server/config.h"
#include "server/log.h"
#include "server/server.h"
#include "tests/query/fake_collection.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_item_store.h"
#include "tests/support/fake_vector_index.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/gate.h"
#include "tests/support/gated_vector_index.h"
#include "tests/support/publish.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {

constexpr int kFakeDimension = 32;

// Takes "red", "green" and so on for a picture of that colour, and "gate" for
// one that is decoded only when Open() was called. Thread-safe.
class FakeDecoder final : public ImageDecoder {
 public:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t /*width*/,
                                 int64_t /*height*/) const override {
    if (encoded == "gate") {
      if (!reached_.HasBeenNotified()) reached_.Notify();
      gate_.WaitForNotification();
      encoded = "red";
    }
    if (encoded == "red") return Plain(255, 0, 0);
    if (encoded == "blue") return Plain(0, 0, 255);
    return absl::InvalidArgumentError("not a picture");
  }

  // Some call stands at the gate. Only one may.
  void WaitUntilReached() const { reached_.WaitForNotification(); }
  void Open() { gate_.Notify(); }

 private:
  static Image Plain(uint8_t red, uint8_t green, uint8_t blue) {
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      image.rgb.insert(image.rgb.end(), {red, green, blue});
    }
    return image;
  }

  mutable absl::Notification reached_;
  absl::Notification gate_;
};

// An empty store in which a read of the item "gate" waits at a gate.
class GatedItemStore final : public ForwardingItemStore {
 public:
  GatedItemStore(std::shared_ptr<ItemStore> store, Gate* gate)
      : ForwardingItemStore(std::move(store)), gate_(gate) {}

  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    if (!ids.empty() && ids.front() == "gate") {
      gate_->reached.Notify();
      gate_->open.WaitForNotification();
    }
    return ForwardingItemStore::Get(ids, parts);
  }

 private:
  Gate* const gate_;
};

// Refuses writes.
class ReadOnlyItemStore final : public ForwardingItemStore {
 public:
  ReadOnlyItemStore(std::shared_ptr<ItemStore> store, std::string reason)
      : ForwardingItemStore(std::move(store)), reason_(std::move(reason)) {}

  absl::StatusOr<std::vector<PutResult>> Put(absl::Span<const Item>) override {
    return absl::FailedPreconditionError(reason_);
  }
  absl::StatusOr<Item> Update(
      const std::string&, const std::function<absl::Status(Item&)>&) override {
    return absl::FailedPreconditionError(reason_);
  }
  absl::StatusOr<std::vector<std::string>> RemoveExpired(int64_t) override {
    return absl::FailedPreconditionError(reason_);
  }
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string>) override {
    return absl::FailedPreconditionError(reason_);
  }
  absl::Status write_status() const override {
    return absl::FailedPreconditionError(reason_);
  }

 private:
  const std::string reason_;
};

// A server over fakes on a free port, and what a client needs to talk to it.
class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    config_ = DefaultConfig();
    config_.mutable_server()->set_address("127.0.0.1:0");
    config_.mutable_metrics()->set_address("127.0.0.1:0");
    config_.mutable_storage()->set_path(data_.path());
    config_.mutable_log()->set_level("off");
    ConfigureLog(config_.log());
  }

  // Starts the server, with the changes that a test made to `config_`.
  void StartServer() {
    server_ = ValueOrDie(Server::Create(config_, MakeBackends()));
    PublishToAllThreads();
    grpc::ChannelArguments arguments;
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    channel_ = grpc::CreateCustomChannel(
        server_->address(), grpc::InsecureChannelCredentials(), arguments);
  }

  Backends MakeBackends() {
    Backends backends;
    auto clock = std::make_unique<FakeClock>(absl::Now());
    clock_ = clock.get();
    backends.clock = std::move(clock);
    auto decoder = std::make_unique<FakeDecoder>();
    decoder_ = decoder.get();
    backends.decoder = std::move(decoder);
    backends.videos = std::make_unique<FakeVideoDecoder>();
    backends.vectors = std::make_shared<VectorCache>(1 << 20);
    backends.models = std::make_unique<ModelRegistry>();
    backends.models->Put(MakeFakeModel("fake", kFakeDimension));
    backends.load_model = [](const v1::LoadModelRequest& request)
        -> absl::StatusOr<std::shared_ptr<const Model>> {
      // A folder's name is its model's.
      const size_t slash = request.path().rfind('/');
      const std::string name = request.path().substr(slash + 1);
      if (name == "damaged") return absl::DataLossError("the canary failed");
      if (name == "no-dense") {
        return MakeFakeModel(name, kFakeDimension,
                             {"image.global", "text.global"});
      }
      if (name == "moments") {
        return MakeFakeModel(
            name, kFakeDimension,
            {"image.global", "text.global", "text.tokens", "moments"});
      }
      return MakeFakeModel(name, kFakeDimension);
    };
    backends.collections.open_store = [this, clock = clock_](
                                          const std::string& path,
                                          const v1::Collection& record)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return std::make_unique<GatedItemStore>(
          std::make_shared<FakeItemStore>(record.dimension(), clock, path),
          &gate_);
    };
    backends.collections.open_read_only =
        [clock = clock_](const std::string& path, const v1::Collection& record,
                         const std::string& reason)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return std::make_unique<ReadOnlyItemStore>(
          std::make_shared<FakeItemStore>(record.dimension(), clock, path),
          reason);
    };
    backends.collections.create_index = [this](const v1::Collection& record,
                                               const std::string& /*directory*/,
                                               ItemStore* /*store*/)
        -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      if (optimize_gate_ == nullptr) {
        return std::make_unique<FakeVectorIndex>(record.dimension());
      }
      return std::make_unique<GatedVectorIndex>(record.dimension(),
                                                optimize_gate_);
    };
    return backends;
  }

  // Calls a unary method. `Method` is that of a stub.
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(std::unique_ptr<Stub> stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                 const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return ((*stub).*method)(&context, request, response);
  }

  grpc::Status Search(const v1::SearchRequest& request,
                      v1::SearchResponse* response) {
    return Call(v1::Retrieval::NewStub(channel_), &v1::Retrieval::Stub::Search,
                request, response);
  }
  grpc::Status Embed(const v1::EmbedRequest& request,
                     v1::EmbedResponse* response) {
    return Call(v1::Embedding::NewStub(channel_), &v1::Embedding::Stub::Embed,
                request, response);
  }
  grpc::Status Create(const v1::Collection& collection) {
    v1::CreateCollectionRequest request;
    *request.mutable_collection() = collection;
    v1::Collection response;
    return Call(v1::Collections::NewStub(channel_),
                &v1::Collections::Stub::Create, request, &response);
  }
  grpc::Status Create(const std::string& name) {
    v1::Collection collection;
    collection.set_name(name);
    return Create(collection);
  }

  // Sends all messages, then reads all answers.
  std::vector<v1::UpsertResponse> Upsert(
      const std::vector<v1::UpsertRequest>& requests, grpc::Status* status) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(30));
    auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
    for (const v1::UpsertRequest& request : requests) stream->Write(request);
    stream->WritesDone();
    std::vector<v1::UpsertResponse> responses(1);
    while (stream->Read(&responses.back())) responses.emplace_back();
    responses.pop_back();
    *status = stream->Finish();
    return responses;
  }

  static v1::UpsertRequest TextItem(const std::string& collection,
                                    const std::string& id,
                                    const std::string& text) {
    v1::UpsertRequest request;
    request.set_collection(collection);
    request.set_id(id);
    request.set_text(text);
    return request;
  }

  static v1::SearchRequest TextSearch(const std::string& collection,
                                      const std::string& text) {
    v1::SearchRequest request;
    request.set_collection(collection);
    request.mutable_query()->add_parts()->set_text(text);
    return request;
  }

  // A request that stands in FakeDecoder's gate.
  static v1::EmbedRequest GateRequest() {
    v1::EmbedRequest request;
    request.add_inputs()->mutable_image()->set_content("gate");
    return request;
  }

  // Any method with any bytes. Streams get one message.
  grpc::Status RawCall(const std::string& method, const std::string& bytes,
                       std::string* response = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer answer;
    grpc::Status result;
    absl::Notification done;
    stub.UnaryCall(&context, method, {}, &request, &answer,
                   [&](grpc::Status status) {
                     result = std::move(status);
                     done.Notify();
                   });
    done.WaitForNotification();
    if (response != nullptr && answer.Valid()) {
      grpc::Slice joined;
      answer.DumpToSingleSlice(&joined);
      response->assign(reinterpret_cast<const char*>(joined.begin()),
                       joined.size());
    }
    return result;
  }

  // The first field violation of an error's details.
  static std::string ViolatedField(const std::string& error_details) {
    google::rpc::Status status;
    status.ParseFromString(error_details);
    google::rpc::BadRequest detail;
    for (const auto& any : status.details()) {
      if (any.UnpackTo(&detail)) return detail.field_violations(0).field();
    }
    return "";
  }

  // What GET /metrics answers.
  std::string ScrapeMetrics() const {
    const std::string& address = server_->metrics_address();
    const size_t colon = address.rfind(':');
    addrinfo* found = nullptr;
    if (getaddrinfo(address.substr(0, colon).c_str(),
                    address.substr(colon + 1).c_str(), nullptr, &found) != 0) {
      return "";
    }
    const int connection = socket(found->ai_family, SOCK_STREAM, 0);
    std::string text;
    if (connect(connection, found->ai_addr, found->ai_addrlen) == 0) {
      const std::string request =
          "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
      send(connection, request.data(), request.size(), 0);
      char buffer[4096];
      ssize_t length = 0;
      while ((length = recv(connection, buffer, sizeof buffer, 0)) > 0) {
        text.append(buffer, length);
      }
    }
    close(connection);
    freeaddrinfo(found);
    return text;
  }

  Gate gate_;
  // Where VectorIndex::Optimize() waits; null: nowhere.
  Gate* optimize_gate_ = nullptr;
  TemporaryDirectory data_;
  v1::Config config_;
  // The server's.
  FakeClock* clock_ = nullptr;
  FakeDecoder* decoder_ = nullptr;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace quern
