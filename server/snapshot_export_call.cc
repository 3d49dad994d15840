#include "server/snapshot_export_call.h"

#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "engine/base/status_macros.h"
#include "quern/v1/collections.pb.h"
#include "server/codec.h"
#include "server/parse_message.h"
#include "server/rpc_service.h"

namespace quern {

SnapshotExportCall* SnapshotExportCall::Start(
    const RpcEnvironment& environment, const std::string& method,
    grpc::CallbackServerContext* server_context, const Snapshots* snapshots,
    ThreadPool* workers) {
  const std::shared_ptr<SnapshotExportCall> call =
      absl::WrapUnique(new SnapshotExportCall(
          environment, method, server_context, snapshots, workers));
  call->self_ = call;
  const absl::Status& admission = call->scope_.admission();
  if (admission.ok()) {
    call->StartRead(&call->request_);
  } else {
    call->End(admission);
  }
  return call.get();
}

SnapshotExportCall::SnapshotExportCall(
    const RpcEnvironment& environment, const std::string& method,
    grpc::CallbackServerContext* server_context, const Snapshots* snapshots,
    ThreadPool* workers)
    : environment_(environment),
      snapshots_(snapshots),
      workers_(workers),
      server_context_(server_context),
      scope_(environment, method, server_context, Lane::kBulk) {}

void SnapshotExportCall::OnReadDone(bool ok) {
  if (!ok) return End(absl::CancelledError("the caller sent no request"));
  scope_.AddReceivedBytes(static_cast<int64_t>(request_.Length()));
  absl::Status status =
      workers_->Submit([self = shared_from_this()] { self->Open(); });
  if (!status.ok()) End(std::move(status));
}

void SnapshotExportCall::Open() {
  absl::Status status = TryOpen();
  if (!status.ok()) return End(std::move(status));
  WriteNext();
}

absl::Status SnapshotExportCall::TryOpen() {
  v1::ExportSnapshotRequest request;
  QUERN_RETURN_IF_ERROR(ParseMessage(request_, request));
  QUERN_RETURN_IF_ERROR(RequireName(request.collection(), "collection"));
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_ASSIGN_OR_RETURN(
      export_, snapshots_->Export(request.collection(), request.name()));
  return absl::OkStatus();
}

void SnapshotExportCall::WriteNext() {
  const absl::StatusOr<bool> written = TryWriteNext();
  if (!written.ok()) return End(written.status());
  if (!*written) End(absl::OkStatus());
}

absl::StatusOr<bool> SnapshotExportCall::TryWriteNext() {
  QUERN_RETURN_IF_ERROR(scope_.context().Check("export"));
  QUERN_ASSIGN_OR_RETURN(std::optional<std::string> bytes, export_->Next());
  if (!bytes.has_value()) return false;
  v1::SnapshotChunk chunk;
  chunk.set_data(*std::move(bytes));
  piece_.Clear();
  QUERN_RETURN_IF_ERROR(
      SerializeMessage(chunk, environment_.max_message_bytes, &piece_));
  scope_.AddSentBytes(static_cast<int64_t>(piece_.Length()));
  int64_t piece = 0;
  {
    absl::MutexLock lock(&mutex_);
    piece = ++pieces_;
    writing_ = true;
  }
  // Another one each time: one whose time is over may still call.
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(absl::ToChronoTime(absl::Now() + environment_.stall_timeout),
              [call = weak_from_this(), piece](bool is_over) {
                const auto self = call.lock();
                if (is_over && self != nullptr) self->CutOff(piece);
              });
  StartWrite(&piece_);
  return true;
}

void SnapshotExportCall::CutOff(int64_t piece) {
  absl::MutexLock lock(&mutex_);
  if (!writing_ || pieces_ != piece) return;
  cut_off_ = true;
  server_context_->TryCancel();
}

void SnapshotExportCall::OnWriteDone(bool ok) {
  alarm_ = nullptr;
  bool cut_off = false;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    cut_off = cut_off_;
  }
  if (cut_off) {
    return End(absl::DeadlineExceededError(
        absl::StrCat("the caller has taken nothing for ",
                     absl::FormatDuration(environment_.stall_timeout))));
  }
  if (!ok) return End(absl::CancelledError("the caller has gone"));
  workers_->Resume([self = shared_from_this()] { self->WriteNext(); });
}

void SnapshotExportCall::End(absl::Status status) {
  // The snapshot can be deleted once the caller knows that it has all of it.
  export_ = nullptr;
  Finish(scope_.End(std::move(status)));
}

void SnapshotExportCall::OnDone() {
  const std::shared_ptr<SnapshotExportCall> self = std::move(self_);
}

}  // namespace quern
