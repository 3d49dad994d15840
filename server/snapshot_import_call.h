#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

#include "engine/base/thread_pool.h"
#include "engine/query/snapshots.h"
#include "quern/v1/collections.pb.h"
#include "server/call_scope.h"

namespace quern {

// What the imports of a server share.
struct ImportEnvironment {
  Snapshots* snapshots = nullptr;
  ThreadPool* workers = nullptr;
  // Imports hold a thread each while they wait for their callers, so they may
  // not take all of them.
  int max_imports = 2;
  std::atomic<int> imports = 0;
};

// One call of Collections.ImportSnapshot.
//
// Messages wait in a short queue for the worker that unpacks them; while it is
// full nothing is read. The worker is there from the first message to the
// answer, and gives up a caller that sends nothing for a minute.
//
// Owns itself until gRPC is done with it. Thread-safe.
class SnapshotImportCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<SnapshotImportCall> {
 public:
  // All must outlive the call.
  static SnapshotImportCall* Start(const RpcEnvironment& environment,
                                   const std::string& method,
                                   grpc::CallbackServerContext* server_context,
                                   ImportEnvironment* imports);
  ~SnapshotImportCall() override;

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  SnapshotImportCall(const RpcEnvironment& environment,
                     const std::string& method,
                     grpc::CallbackServerContext* server_context,
                     ImportEnvironment* imports);

  // Asks for the next message where there is room for it.
  void ReadMore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes room for another import.
  void Uncount();
  absl::Status StartWorker();
  void End(absl::Status status);

  // On the worker's thread.
  void Run();
  absl::StatusOr<SnapshotInfo> Import();
  // The next message; nullopt when the caller has sent all.
  absl::StatusOr<std::optional<v1::ImportSnapshotRequest>> NextMessage();

  const RpcEnvironment& environment_;
  ImportEnvironment* const imports_;
  std::shared_ptr<SnapshotImportCall> self_;  // Dropped by OnDone().
  bool is_counted_ = false;                   // In imports_->imports.
  CallScope scope_;
  grpc::ByteBuffer read_;  // gRPC's between StartRead() and OnReadDone().
  grpc::ByteBuffer answer_;

  absl::Mutex mutex_;
  std::deque<grpc::ByteBuffer> messages_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quern
