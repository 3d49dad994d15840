#include "client/cpp/client.h"

#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

#include "client/cpp/rpc_status.h"

namespace quern {
namespace {

constexpr int kListPageSize = 1000;

std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_message_bytes);
  // A client per server, even in one process: no channel is shared behind the
  // scenes, so that Shutdown() of one does not touch another.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(
      options.address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status Validate(const ClientOptions& options) {
  if (options.address.empty()) {
    return absl::InvalidArgumentError("the address is empty");
  }
  if (options.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("timeout is ", absl::FormatDuration(options.timeout),
                     "; it must be positive"));
  }
  if (options.retry.max_attempts < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "retry.max_attempts is ", options.retry.max_attempts, "; at least 1"));
  }
  return absl::OkStatus();
}

ClientOptions WithDefaults(ClientOptions options) {
  if (!options.sleep) options.sleep = absl::SleepFor;
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Create(ClientOptions options) {
  if (absl::Status status = Validate(options); !status.ok()) {
    return status;
  }
  return std::unique_ptr<Client>(new Client(WithDefaults(std::move(options))));
}

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      channel_(MakeChannel(options_)),
      collections_(v1::Collections::NewStub(channel_)),
      embedding_(v1::Embedding::NewStub(channel_)),
      grounding_(v1::Grounding::NewStub(channel_)),
      items_(v1::Items::NewStub(channel_)),
      models_(v1::Models::NewStub(channel_)),
      retrieval_(v1::Retrieval::NewStub(channel_)) {}

absl::Status Client::CheckHealth() {
  using grpc::health::v1::HealthCheckResponse;
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  const grpc::health::v1::HealthCheckRequest request;
  HealthCheckResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return stub->Check(context, request, &response);
  });
  if (!status.ok()) return status;
  if (response.status() != HealthCheckResponse::SERVING) {
    return absl::UnavailableError(absl::StrCat(
        "the server is ",
        HealthCheckResponse::ServingStatus_Name(response.status())));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SearchResponse> Client::Search(
    const v1::SearchRequest& request) {
  v1::SearchResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return retrieval_->Search(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::EmbedResponse> Client::Embed(
    const v1::EmbedRequest& request) {
  v1::EmbedResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return embedding_->Embed(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::GroundRegionsResponse> Client::GroundRegions(
    const v1::GroundRegionsRequest& request) {
  v1::GroundRegionsResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return grounding_->GroundRegions(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::GroundSegmentsResponse> Client::GroundSegments(
    const v1::GroundSegmentsRequest& request) {
  v1::GroundSegmentsResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return grounding_->GroundSegments(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Collection> Client::GetCollection(const std::string& name) {
  v1::GetCollectionRequest request;
  request.set_name(name);
  v1::Collection response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return collections_->Get(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<std::vector<v1::Collection>> Client::ListCollections() {
  std::vector<v1::Collection> collections;
  v1::ListCollectionsRequest request;
  request.set_page_size(kListPageSize);
  do {
    v1::ListCollectionsResponse response;
    absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
      return collections_->List(context, request, &response);
    });
    if (!status.ok()) return status;
    for (v1::Collection& collection : *response.mutable_collections()) {
      collections.push_back(std::move(collection));
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return collections;
}

absl::StatusOr<v1::Collection> Client::CreateCollection(
    const v1::Collection& collection) {
  v1::CreateCollectionRequest request;
  *request.mutable_collection() = collection;
  v1::Collection response;
  absl::Status status = Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return collections_->Create(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::DeleteCollectionResponse> Client::DeleteCollection(
    const std::string& name) {
  v1::DeleteCollectionRequest request;
  request.set_name(name);
  v1::DeleteCollectionResponse response;
  absl::Status status = Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return collections_->Delete(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Job> Client::OptimizeCollection(const std::string& name) {
  v1::OptimizeCollectionRequest request;
  request.set_name(name);
  v1::Job response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return collections_->Optimize(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Job> Client::ReindexCollection(const std::string& name,
                                                  const std::string& model) {
  v1::ReindexCollectionRequest request;
  request.set_name(name);
  request.set_model(model);
  v1::Job response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return collections_->Reindex(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Job> Client::GetJob(const std::string& id) {
  v1::GetJobRequest request;
  request.set_id(id);
  v1::Job response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return collections_->GetJob(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Snapshot> Client::CreateSnapshot(
    const v1::CreateSnapshotRequest& request) {
  v1::Snapshot response;
  absl::Status status = Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return collections_->CreateSnapshot(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<std::vector<v1::Snapshot>> Client::ListSnapshots(
    const std::string& collection) {
  v1::ListSnapshotsRequest request;
  request.set_collection(collection);
  request.set_page_size(kListPageSize);
  std::vector<v1::Snapshot> snapshots;
  do {
    v1::ListSnapshotsResponse response;
    absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
      return collections_->ListSnapshots(context, request, &response);
    });
    if (!status.ok()) return status;
    for (v1::Snapshot& snapshot : *response.mutable_snapshots()) {
      snapshots.push_back(std::move(snapshot));
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return snapshots;
}

absl::Status Client::DeleteSnapshot(const v1::DeleteSnapshotRequest& request) {
  v1::DeleteSnapshotResponse response;
  return Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return collections_->DeleteSnapshot(context, request, &response);
  });
}

absl::StatusOr<v1::Collection> Client::RestoreSnapshot(
    const v1::RestoreSnapshotRequest& request) {
  v1::Collection response;
  absl::Status status = Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return collections_->RestoreSnapshot(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status Client::ExportSnapshot(
    const v1::ExportSnapshotRequest& request,
    const std::function<absl::Status(absl::string_view)>& write) {
  const std::shared_ptr<grpc::ClientContext> context = NewContext();
  const auto stream = collections_->ExportSnapshot(context.get(), request);
  v1::SnapshotChunk chunk;
  absl::Status written;
  while (written.ok() && stream->Read(&chunk)) written = write(chunk.data());
  if (!written.ok()) context->TryCancel();
  const grpc::Status status = stream->Finish();
  return written.ok() ? client::FromGrpcStatus(status) : written;
}

absl::StatusOr<v1::Snapshot> Client::ImportSnapshot(
    const std::string& collection, const std::string& name,
    const std::function<absl::StatusOr<std::string>()>& read) {
  const std::shared_ptr<grpc::ClientContext> context = NewContext();
  v1::Snapshot response;
  const auto stream = collections_->ImportSnapshot(context.get(), &response);
  v1::ImportSnapshotRequest request;
  request.set_collection(collection);
  request.set_name(name);
  absl::StatusOr<std::string> piece = read();
  while (piece.ok() && !piece->empty()) {
    request.mutable_chunk()->mutable_data()->swap(*piece);
    // The server may have seen enough: Finish() says why.
    if (!stream->Write(request)) break;
    request.Clear();
    piece = read();
  }
  if (piece.ok()) {
    stream->WritesDone();
  } else {
    context->TryCancel();
  }
  const grpc::Status status = stream->Finish();
  if (!piece.ok()) return piece.status();
  if (!status.ok()) return client::FromGrpcStatus(status);
  return response;
}

absl::StatusOr<v1::Item> Client::GetItem(const v1::GetItemRequest& request) {
  v1::Item response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return items_->Get(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ListItemsResponse> Client::ListItems(
    const v1::ListItemsRequest& request) {
  v1::ListItemsResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return items_->List(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

std::unique_ptr<UpsertStream> Client::Upsert(
    std::string collection, UpsertStreamOptions options,
    UpsertStream::ResultCallback on_result) {
  return std::make_unique<UpsertStream>(items_.get(), NewContext(),
                                        std::move(collection), options,
                                        std::move(on_result));
}

absl::StatusOr<std::vector<v1::Model>> Client::ListModels() {
  const v1::ListModelsRequest request;
  v1::ListModelsResponse response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return models_->List(context, request, &response);
  });
  if (!status.ok()) return status;
  return std::vector<v1::Model>(response.models().begin(),
                                response.models().end());
}

absl::StatusOr<v1::Model> Client::GetModel(const std::string& name) {
  v1::GetModelRequest request;
  request.set_name(name);
  v1::Model response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return models_->Get(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Model> Client::LoadModel(
    const v1::LoadModelRequest& request) {
  v1::Model response;
  absl::Status status = Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return models_->Load(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status Client::UnloadModel(const v1::UnloadModelRequest& request) {
  v1::UnloadModelResponse response;
  return Run(Repeat::kNever, [&](grpc::ClientContext* context) {
    return models_->Unload(context, request, &response);
  });
}

absl::StatusOr<v1::Model> Client::SetDefaultModel(const std::string& name) {
  v1::SetDefaultModelRequest request;
  request.set_name(name);
  v1::Model response;
  absl::Status status = Run(Repeat::kSafe, [&](grpc::ClientContext* context) {
    return models_->SetDefault(context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

void Client::Shutdown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  for (const auto& weak : contexts_) {
    if (const auto context = weak.lock()) context->TryCancel();
  }
  contexts_.clear();
}

std::shared_ptr<grpc::ClientContext> Client::NewContext() {
  auto context = std::make_shared<grpc::ClientContext>();
  absl::MutexLock lock(&mutex_);
  // A context that is cancelled before its call starts fails the call.
  if (shut_down_) context->TryCancel();
  std::erase_if(contexts_, [](const auto& weak) { return weak.expired(); });
  contexts_.push_back(context);
  return context;
}

absl::Status Client::Attempt(
    const std::function<grpc::Status(grpc::ClientContext*)>& call,
    absl::Time deadline) {
  const std::shared_ptr<grpc::ClientContext> context = NewContext();
  context->set_deadline(absl::ToChronoTime(deadline));
  return client::FromGrpcStatus(call(context.get()));
}

absl::Status Client::Run(
    Repeat repeat,
    const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  const absl::Time deadline = absl::Now() + options_.timeout;
  absl::InsecureBitGen random;
  for (int attempts = 1;; ++attempts) {
    if (is_shut_down()) return absl::CancelledError("the client was shut down");
    absl::Status status = Attempt(call, deadline);
    if (status.ok() || repeat == Repeat::kNever) return status;
    const std::optional<absl::Duration> delay = client::NextDelay(
        options_.retry, attempts, status, absl::Uniform<double>(random, 0, 1));
    if (!delay.has_value() || absl::Now() + *delay >= deadline) return status;
    options_.sleep(*delay);
  }
}

bool Client::is_shut_down() {
  absl::MutexLock lock(&mutex_);
  return shut_down_;
}

}  // namespace quern
