#include "server/stream_call.h"

#include <utility>

#include "server/rpc_service.h"

namespace quern {

StreamCall::StreamCall(const RpcEnvironment& environment,
                       const std::string& method,
                       grpc::CallbackServerContext* server_context,
                       int64_t window)
    : environment_(environment),
      window_(window),
      scope_(environment, method, server_context, Lane::kBulk) {
  absl::MutexLock lock(&mutex_);
  context_ = &scope_.context();
  failure_ = scope_.admission();
}

StreamCall* StreamCall::Start(std::shared_ptr<StreamCall> call) {
  StreamCall* raw = call.get();
  absl::MutexLock lock(&raw->mutex_);
  raw->self_ = std::move(call);
  raw->Step();
  return raw;
}

void StreamCall::OnReadDone(bool ok) {
  const std::shared_ptr<StreamCall> self = shared_from_this();
  grpc::ByteBuffer message;
  {
    absl::MutexLock lock(&mutex_);
    if (!ok) {
      reading_ = false;
      read_all_ = true;
      Step();
      return;
    }
    message.Swap(&read_);
    ++unanswered_;
    scope_.AddReceivedBytes(static_cast<int64_t>(message.Length()));
  }
  absl::Status status = OnMessage(message);
  absl::MutexLock lock(&mutex_);
  // Only now: one message at a time.
  reading_ = false;
  if (!status.ok()) {
    --unanswered_;
    failure_.Update(status);
  }
  Step();
}

void StreamCall::OnWriteDone(bool ok) {
  const std::shared_ptr<StreamCall> self = shared_from_this();
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) {
    answers_.clear();
    failure_.Update(absl::CancelledError("the caller has gone"));
  }
  Step();
}

void StreamCall::OnCancel() { context_->Cancel(); }

void StreamCall::OnDone() {
  const std::shared_ptr<StreamCall> self = std::move(self_);
}

void StreamCall::Answer(
    const std::vector<const google::protobuf::Message*>& answers,
    const std::vector<StageTime>& stages) {
  const std::shared_ptr<StreamCall> self = shared_from_this();
  absl::MutexLock lock(&mutex_);
  for (const StageTime& stage : stages) {
    context_->AddStageTime(stage.stage, stage.duration);
  }
  for (const google::protobuf::Message* answer : answers) {
    --unanswered_;
    grpc::ByteBuffer bytes;
    const absl::Status status =
        SerializeMessage(*answer, environment_.max_message_bytes, &bytes);
    if (!status.ok()) {
      failure_.Update(status);
    } else if (!context_->cancelled()) {
      answers_.push_back(std::move(bytes));
    }
  }
  Step();
}

int64_t StreamCall::UnderWay() const {
  return unanswered_ + static_cast<int64_t>(answers_.size()) +
         (writing_ ? 1 : 0);
}

void StreamCall::Step() {
  if (finished_) return;
  if (!writing_ && !answers_.empty()) {
    writing_ = true;
    written_.Swap(&answers_.front());
    answers_.pop_front();
    scope_.AddSentBytes(static_cast<int64_t>(written_.Length()));
    StartWrite(&written_);
  }
  const bool is_last = read_all_ || !failure_.ok();
  if (is_last && UnderWay() == 0) {
    finished_ = true;
    // A caller that went away looks like one that has sent all.
    if (context_->cancelled()) {
      failure_.Update(absl::CancelledError("the caller has gone"));
    }
    Finish(scope_.End(failure_));
  } else if (!is_last && !reading_ && UnderWay() < window_) {
    reading_ = true;
    StartRead(&read_);
  }
}

}  // namespace quern
