#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/alarm.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

#include "engine/base/thread_pool.h"
#include "engine/query/snapshots.h"
#include "server/call_scope.h"

namespace quern {

// One call of Collections.ExportSnapshot.
//
// Each piece is made on a thread of `workers` once the one before it has left:
// a caller that reads slowly holds a piece of memory, and no thread. One that
// takes nothing for RpcEnvironment::stall_timeout is cut off: nobody else could
// delete the snapshot.
//
// Owns itself until gRPC is done with it.
class SnapshotExportCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<SnapshotExportCall> {
 public:
  // All must outlive the call.
  static SnapshotExportCall* Start(const RpcEnvironment& environment,
                                   const std::string& method,
                                   grpc::CallbackServerContext* server_context,
                                   const Snapshots* snapshots,
                                   ThreadPool* workers);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { scope_.context().Cancel(); }
  void OnDone() override;

 private:
  SnapshotExportCall(const RpcEnvironment& environment,
                     const std::string& method,
                     grpc::CallbackServerContext* server_context,
                     const Snapshots* snapshots, ThreadPool* workers);

  // On a worker's thread.
  void Open();
  void WriteNext();
  absl::Status TryOpen();
  // Whether a piece is on its way; not at the end.
  absl::StatusOr<bool> TryWriteNext();

  // Ends the call unless the piece of that number has left.
  void CutOff(int64_t piece);

  void End(absl::Status status);

  const RpcEnvironment& environment_;
  const Snapshots* const snapshots_;
  ThreadPool* const workers_;
  grpc::CallbackServerContext* const server_context_;  // Until OnDone().
  std::shared_ptr<SnapshotExportCall> self_;           // Dropped by OnDone().

  // Used by one thread after the other.
  CallScope scope_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer piece_;  // gRPC's while it is written.
  std::unique_ptr<SnapshotExport> export_;
  std::unique_ptr<grpc::Alarm> alarm_;  // While a piece is written.

  absl::Mutex mutex_;
  int64_t pieces_ ABSL_GUARDED_BY(mutex_) = 0;  // Given to gRPC.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cut_off_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quern
