#include "client/cpp/upsert_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "client/cpp/rpc_status.h"

namespace quern {

UpsertStream::UpsertStream(v1::Items::StubInterface* stub,
                           std::shared_ptr<grpc::ClientContext> context,
                           std::string collection, UpsertStreamOptions options,
                           ResultCallback on_result)
    : options_(options),
      collection_(std::move(collection)),
      on_result_(std::move(on_result)),
      context_(std::move(context)),
      stream_(stub->Upsert(context_.get())),
      reader_([this] { ReadResults(); }) {}

UpsertStream::~UpsertStream() {
  if (closed_) return;
  context_->TryCancel();
  Close().IgnoreError();
}

absl::Status UpsertStream::Write(v1::UpsertRequest request) {
  if (closed_) {
    return final_status_.ok()
               ? absl::FailedPreconditionError("the upsert stream has ended")
               : final_status_;
  }
  if (!AwaitInFlightAtMost(options_.window - 1)) return GiveUp();
  request.set_collection(collection_);
  {
    absl::MutexLock lock(&mutex_);
    ++written_;
  }
  if (stream_->Write(request)) return absl::OkStatus();
  const absl::Status status = Close();
  return status.ok()
             ? absl::UnavailableError("the server ended the upsert stream")
             : status;
}

absl::Status UpsertStream::Finish() {
  if (closed_) return final_status_;
  stream_->WritesDone();
  return AwaitInFlightAtMost(0) ? Close() : GiveUp();
}

absl::Status UpsertStream::GiveUp() {
  context_->TryCancel();
  Close().IgnoreError();
  final_status_ = absl::DeadlineExceededError(
      absl::StrCat("the server has answered no item for ",
                   absl::FormatDuration(options_.stall_timeout)));
  return final_status_;
}

void UpsertStream::ReadResults() {
  v1::UpsertResponse response;
  while (stream_->Read(&response)) {
    on_result_(response);
    absl::MutexLock lock(&mutex_);
    ++answered_;
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

bool UpsertStream::AwaitInFlightAtMost(int64_t max) {
  absl::MutexLock lock(&mutex_);
  while (!ended_ && written_ - answered_ > max) {
    const int64_t answered_before = answered_;
    const auto moved = [this, answered_before]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
                             return ended_ || answered_ != answered_before;
                           };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&moved),
                                 options_.stall_timeout)) {
      return false;
    }
  }
  return true;
}

absl::Status UpsertStream::Close() {
  closed_ = true;
  reader_.join();
  final_status_ = client::FromGrpcStatus(stream_->Finish());
  absl::MutexLock lock(&mutex_);
  if (final_status_.ok() && answered_ < written_) {
    final_status_ = absl::DataLossError(
        absl::StrCat("the server ended the upsert stream with ",
                     written_ - answered_, " items unanswered"));
  }
  return final_status_;
}

}  // namespace quern
