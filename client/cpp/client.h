#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"

#include "client/cpp/retry.h"
#include "client/cpp/upsert_stream.h"
#include "quern/v1/collections.grpc.pb.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "quern/v1/grounding.grpc.pb.h"
#include "quern/v1/items.grpc.pb.h"
#include "quern/v1/models.grpc.pb.h"
#include "quern/v1/retrieval.grpc.pb.h"

namespace quern {

struct ClientOptions {
  // host:port, without TLS.
  std::string address = "127.0.0.1:7070";
  // For a whole call, its further attempts included; > 0. Streams have none,
  // see UpsertStreamOptions::stall_timeout.
  absl::Duration timeout = absl::Seconds(60);
  // Largest request or response in bytes; the server has a limit of its own
  // (`server.max_message_bytes`).
  int max_message_bytes = 64 << 20;
  // Of reads and of calls that may be repeated safely.
  client::RetryOptions retry;
  // Waits between attempts. Default: absl::SleepFor.
  std::function<void(absl::Duration)> sleep;
};

// A connection to one server. The services' messages go in and come out as they
// are; what is added is deadlines, retries, cancellation and readable errors:
// a status carries the server's message with the fields it names.
//
// Thread-safe; calls wait for their answer.
class Client {
 public:
  // Does not connect yet. INVALID_ARGUMENT for an option out of range.
  static absl::StatusOr<std::unique_ptr<Client>> Create(ClientOptions options);
  // Every UpsertStream must be gone.
  ~Client() = default;

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // OK when the server answers grpc.health.v1 with SERVING.
  absl::Status CheckHealth();

  absl::StatusOr<v1::SearchResponse> Search(const v1::SearchRequest& request);
  absl::StatusOr<v1::EmbedResponse> Embed(const v1::EmbedRequest& request);
  absl::StatusOr<v1::GroundRegionsResponse> GroundRegions(
      const v1::GroundRegionsRequest& request);
  absl::StatusOr<v1::GroundSegmentsResponse> GroundSegments(
      const v1::GroundSegmentsRequest& request);

  absl::StatusOr<v1::Collection> GetCollection(const std::string& name);
  // All pages.
  absl::StatusOr<std::vector<v1::Collection>> ListCollections();
  // Not repeated on errors: the first attempt may have done it.
  absl::StatusOr<v1::Collection> CreateCollection(
      const v1::Collection& collection);
  // Likewise.
  absl::StatusOr<v1::DeleteCollectionResponse> DeleteCollection(
      const std::string& name);

  // Begins a job, or finds the one under way: repeated on errors.
  absl::StatusOr<v1::Job> OptimizeCollection(const std::string& name);
  // Likewise.
  absl::StatusOr<v1::Job> ReindexCollection(const std::string& name,
                                            const std::string& model);
  absl::StatusOr<v1::Job> GetJob(const std::string& id);

  // Not repeated on errors, as above.
  absl::StatusOr<v1::Snapshot> CreateSnapshot(
      const v1::CreateSnapshotRequest& request);
  // All pages; of all collections for "".
  absl::StatusOr<std::vector<v1::Snapshot>> ListSnapshots(
      const std::string& collection);
  absl::Status DeleteSnapshot(const v1::DeleteSnapshotRequest& request);
  absl::StatusOr<v1::Collection> RestoreSnapshot(
      const v1::RestoreSnapshotRequest& request);
  // Calls `write` with the tar's pieces in order until it fails. A stream:
  // `timeout` does not bound it.
  absl::Status ExportSnapshot(
      const v1::ExportSnapshotRequest& request,
      const std::function<absl::Status(absl::string_view)>& write);
  // Sends what `read` gives, up to kSnapshotPieceBytes at once, until it gives
  // nothing more. A stream, likewise.
  absl::StatusOr<v1::Snapshot> ImportSnapshot(
      const std::string& collection, const std::string& name,
      const std::function<absl::StatusOr<std::string>()>& read);
  static constexpr size_t kSnapshotPieceBytes = 1 << 20;

  absl::StatusOr<v1::Item> GetItem(const v1::GetItemRequest& request);
  // One page.
  absl::StatusOr<v1::ListItemsResponse> ListItems(
      const v1::ListItemsRequest& request);
  // `on_result` runs on the stream's own thread. The client must outlive it.
  std::unique_ptr<UpsertStream> Upsert(std::string collection,
                                       UpsertStreamOptions options,
                                       UpsertStream::ResultCallback on_result);

  absl::StatusOr<std::vector<v1::Model>> ListModels();
  // The default model for the empty name.
  absl::StatusOr<v1::Model> GetModel(const std::string& name);
  // Not repeated on errors: loading is costly, and may have been done.
  absl::StatusOr<v1::Model> LoadModel(const v1::LoadModelRequest& request);
  // Likewise.
  absl::Status UnloadModel(const v1::UnloadModelRequest& request);
  absl::StatusOr<v1::Model> SetDefaultModel(const std::string& name);

  // Cancels calls and streams under way; further ones fail as CANCELLED.
  // Idempotent.
  void Shutdown();

  const ClientOptions& options() const { return options_; }

 private:
  explicit Client(ClientOptions options);

  enum class Repeat { kNever, kSafe };

  // Makes a context that Shutdown() cancels for as long as it lives.
  std::shared_ptr<grpc::ClientContext> NewContext();
  absl::Status Attempt(
      const std::function<grpc::Status(grpc::ClientContext*)>& call,
      absl::Time deadline);
  // Attempts `call` until it succeeds, is not worth repeating or time is up.
  absl::Status Run(
      Repeat repeat,
      const std::function<grpc::Status(grpc::ClientContext*)>& call);
  bool is_shut_down();

  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Collections::Stub> collections_;
  const std::unique_ptr<v1::Embedding::Stub> embedding_;
  const std::unique_ptr<v1::Grounding::Stub> grounding_;
  const std::unique_ptr<v1::Items::Stub> items_;
  const std::unique_ptr<v1::Models::Stub> models_;
  const std::unique_ptr<v1::Retrieval::Stub> retrieval_;

  absl::Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<grpc::ClientContext>> contexts_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
