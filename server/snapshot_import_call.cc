#include "server/snapshot_import_call.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/parse_message.h"
#include "server/rpc_service.h"

namespace quern {
namespace {

constexpr size_t kMaxQueuedMessages = 4;
constexpr absl::Duration kRetryDelay = absl::Seconds(10);

}  // namespace

SnapshotImportCall* SnapshotImportCall::Start(
    const RpcEnvironment& environment, const std::string& method,
    grpc::CallbackServerContext* server_context, ImportEnvironment* imports) {
  const std::shared_ptr<SnapshotImportCall> call = absl::WrapUnique(
      new SnapshotImportCall(environment, method, server_context, imports));
  call->self_ = call;
  absl::Status status = call->scope_.admission();
  if (status.ok()) {
    absl::MutexLock lock(&call->mutex_);
    call->ReadMore();
  } else {
    call->End(std::move(status));
  }
  return call.get();
}

SnapshotImportCall::SnapshotImportCall(
    const RpcEnvironment& environment, const std::string& method,
    grpc::CallbackServerContext* server_context, ImportEnvironment* imports)
    : environment_(environment),
      imports_(imports),
      scope_(environment, method, server_context, Lane::kBulk) {}

SnapshotImportCall::~SnapshotImportCall() { Uncount(); }

void SnapshotImportCall::Uncount() {
  if (std::exchange(is_counted_, false)) --imports_->imports;
}

void SnapshotImportCall::ReadMore() {
  if (reading_ || read_all_ || ended_ ||
      messages_.size() >= kMaxQueuedMessages) {
    return;
  }
  reading_ = true;
  StartRead(&read_);
}

void SnapshotImportCall::OnReadDone(bool ok) {
  // It may end the call.
  const std::shared_ptr<SnapshotImportCall> self = shared_from_this();
  bool is_first = false;
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (ok) {
      scope_.AddReceivedBytes(static_cast<int64_t>(read_.Length()));
      messages_.emplace_back();
      messages_.back().Swap(&read_);
    } else {
      read_all_ = true;
    }
    is_first = !working_ && !ended_;
    if (is_first) working_ = true;
    ReadMore();
  }
  if (!is_first) return;
  absl::Status status = StartWorker();
  if (!status.ok()) End(std::move(status));
}

absl::Status SnapshotImportCall::StartWorker() {
  is_counted_ = true;
  if (++imports_->imports > imports_->max_imports) {
    return Overloaded(
        absl::StrCat(imports_->max_imports,
                     " snapshots are being imported, which is the limit"),
        kRetryDelay);
  }
  return imports_->workers->Submit(
      [self = shared_from_this()] { self->Run(); });
}

void SnapshotImportCall::OnCancel() {
  scope_.context().Cancel();
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
}

void SnapshotImportCall::Run() {
  const absl::StatusOr<SnapshotInfo> snapshot = Import();
  // Before the caller is told: the next import may come at once.
  Uncount();
  if (!snapshot.ok()) return End(snapshot.status());
  v1::Snapshot response;
  EncodeSnapshot(*snapshot, &response);
  absl::Status status =
      SerializeMessage(response, environment_.max_message_bytes, &answer_);
  if (!status.ok()) return End(std::move(status));
  scope_.AddSentBytes(static_cast<int64_t>(answer_.Length()));
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  StartWriteAndFinish(&answer_, grpc::WriteOptions(),
                      scope_.End(absl::OkStatus()));
}

absl::StatusOr<SnapshotInfo> SnapshotImportCall::Import() {
  QUERN_ASSIGN_OR_RETURN(std::optional<v1::ImportSnapshotRequest> first,
                         NextMessage());
  if (!first.has_value()) first.emplace();
  const std::string collection = first->collection();
  const std::string name = first->name();
  QUERN_RETURN_IF_ERROR(RequireName(collection, "collection"));
  QUERN_RETURN_IF_ERROR(RequireName(name, "name"));
  const ArchiveSource source =
      [&]() -> absl::StatusOr<std::optional<std::string>> {
    std::optional<v1::ImportSnapshotRequest> message;
    if (first.has_value()) {
      message = std::exchange(first, std::nullopt);
    } else {
      QUERN_ASSIGN_OR_RETURN(message, NextMessage());
    }
    if (!message.has_value()) return std::nullopt;
    std::string& data = *message->mutable_chunk()->mutable_data();
    if (static_cast<int64_t>(data.size()) > kMaxArchivePieceBytes) {
      return InvalidField("chunk.data", absl::StrCat("has ", data.size(),
                                                     " bytes; the limit is ",
                                                     kMaxArchivePieceBytes));
    }
    const auto is_other = [](const std::string& given,
                             const std::string& expected) {
      return !given.empty() && given != expected;
    };
    if (is_other(message->collection(), collection) ||
        is_other(message->name(), name)) {
      return InvalidField(
          "name",
          "changes within the stream; the first message names the "
          "snapshot");
    }
    return std::move(data);
  };
  return imports_->snapshots->Import(scope_.context(), collection, name,
                                     source);
}

absl::StatusOr<std::optional<v1::ImportSnapshotRequest>>
SnapshotImportCall::NextMessage() {
  grpc::ByteBuffer bytes;
  {
    absl::MutexLock lock(&mutex_);
    const auto has_news = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return !messages_.empty() || read_all_ || cancelled_;
    };
    const absl::Duration timeout = environment_.stall_timeout;
    if (!mutex_.AwaitWithTimeout(absl::Condition(&has_news), timeout)) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the caller has sent nothing for ", absl::FormatDuration(timeout)));
    }
    if (cancelled_) return absl::CancelledError("the caller has gone");
    if (messages_.empty()) return std::nullopt;
    bytes.Swap(&messages_.front());
    messages_.pop_front();
    ReadMore();
  }
  v1::ImportSnapshotRequest message;
  QUERN_RETURN_IF_ERROR(ParseMessage(bytes, message));
  return message;
}

void SnapshotImportCall::End(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  Finish(scope_.End(std::move(status)));
}

void SnapshotImportCall::OnDone() {
  const std::shared_ptr<SnapshotImportCall> self = std::move(self_);
}

}  // namespace quern
