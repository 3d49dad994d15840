#include "server/stream_call.h"

#include <algorithm>
#include <utility>

#include "server/rpc_service.h"

namespace quern {

StreamCall::StreamCall(const RpcEnvironment& environment,
                       const std::string& method,
                       grpc::CallbackServerContext* server_context,
                       int64_t window)
    : environment_(environment),
      window_(window * kWeightBytes),
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
    unanswered_.push_back(kWeightBytes);
    weight_ += kWeightBytes;
    scope_.AddReceivedBytes(static_cast<int64_t>(message.Length()));
  }
  absl::Status status = OnMessage(message);
  absl::MutexLock lock(&mutex_);
  // Only now: one message at a time.
  reading_ = false;
  if (!status.ok()) {
    weight_ -= unanswered_.back();
    unanswered_.pop_back();
    failure_.Update(status);
  }
  Step();
}

void StreamCall::CountBySize(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const int64_t weight = std::clamp(bytes, kLightestBytes, kWeightBytes);
  weight_ += weight - unanswered_.back();
  unanswered_.back() = weight;
}

void StreamCall::OnWriteDone(bool ok) {
  const std::shared_ptr<StreamCall> self = shared_from_this();
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  weight_ -= written_.weight;
  if (!ok) {
    for (const Outgoing& answer : answers_) weight_ -= answer.weight;
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
    const int64_t weight = unanswered_.front();
    unanswered_.pop_front();
    grpc::ByteBuffer bytes;
    const absl::Status status =
        SerializeMessage(*answer, environment_.max_message_bytes, &bytes);
    if (status.ok() && !context_->cancelled()) {
      answers_.push_back({.weight = weight});
      answers_.back().bytes.Swap(&bytes);
    } else {
      weight_ -= weight;
      failure_.Update(status);
    }
  }
  Step();
}

void StreamCall::Step() {
  if (finished_) return;
  if (!writing_ && !answers_.empty()) {
    writing_ = true;
    written_.weight = answers_.front().weight;
    written_.bytes.Swap(&answers_.front().bytes);
    answers_.pop_front();
    scope_.AddSentBytes(static_cast<int64_t>(written_.bytes.Length()));
    // One with others behind it need not be sent at once. The first takes the
    // call's headers along: gRPC says that it is done only when they are sent.
    grpc::WriteOptions options;
    if (sent_first_ && !answers_.empty()) options.set_buffer_hint();
    sent_first_ = true;
    StartWrite(&written_.bytes, options);
  }
  const bool is_last = read_all_ || !failure_.ok();
  if (is_last && weight_ == 0) {
    finished_ = true;
    // A caller that went away looks like one that has sent all.
    if (context_->cancelled()) {
      failure_.Update(absl::CancelledError("the caller has gone"));
    }
    Finish(scope_.End(failure_));
  } else if (!is_last && !reading_ && weight_ < window_) {
    reading_ = true;
    StartRead(&read_);
  }
}

}  // namespace quern
