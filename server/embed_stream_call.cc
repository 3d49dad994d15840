#include "server/embed_stream_call.h"

#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/grpc_status.h"
#include "server/parse_message.h"

namespace quern {

StreamCall* EmbedStreamCall::Start(const RpcEnvironment& environment,
                                   const std::string& method,
                                   grpc::CallbackServerContext* server_context,
                                   const Engine* engine, int64_t window) {
  return StreamCall::Start(absl::WrapUnique(new EmbedStreamCall(
      environment, method, server_context, engine, window)));
}

EmbedStreamCall::EmbedStreamCall(const RpcEnvironment& environment,
                                 const std::string& method,
                                 grpc::CallbackServerContext* server_context,
                                 const Engine* engine, int64_t window)
    : StreamCall(environment, method, server_context, window),
      engine_(engine) {}

absl::Status EmbedStreamCall::Open(const v1::EmbedStreamRequest& first) {
  QUERN_ASSIGN_OR_RETURN(options_, DecodeEmbedOptions(first));
  QUERN_ASSIGN_OR_RETURN(model_, engine_->models().Get(first.model()));
  return absl::OkStatus();
}

absl::Status EmbedStreamCall::OnMessage(grpc::ByteBuffer message) {
  const auto request = std::make_shared<v1::EmbedStreamRequest>();
  absl::Status status = ParseMessage(message, *request);
  if (model_ == nullptr) {
    QUERN_RETURN_IF_ERROR(status);
    QUERN_RETURN_IF_ERROR(Open(*request));
  }
  const int64_t index = next_index_++;
  if (status.ok()) {
    status =
        environment().streams->Submit([self = shared_from_this(), this, index,
                                       request] { Embed(index, request); },
                                      Lane::kBulk);
  }
  // The last answer may end the call: nothing is touched after it.
  if (!status.ok()) Finish(index, std::move(status));
  return absl::OkStatus();
}

void EmbedStreamCall::Embed(
    int64_t index,
    const std::shared_ptr<const v1::EmbedStreamRequest>& request) {
  const absl::StatusOr<EmbedInput> input = DecodeInput(request->input());
  if (!input.ok()) {
    return Finish(index, InField(input.status(), "input"));
  }
  engine_->embedder().Embed(
      *context(), model_, {*input}, options_,
      [self = shared_from_this(), this, index,
       request](std::vector<absl::StatusOr<Embedded>> results) {
        absl::StatusOr<Embedded>& result = results.front();
        Finish(index, result.ok() ? std::move(result)
                                  : InField(result.status(), "input"));
      });
}

void EmbedStreamCall::Finish(int64_t index, absl::StatusOr<Embedded> result) {
  Outcome outcome;
  outcome.response.set_index(index);
  if (result.ok()) {
    EncodeEmbedded(*result, options_, model_->info().dimension,
                   outcome.response.mutable_result());
    outcome.stages = std::move(result->stages);
  } else {
    *outcome.response.mutable_result()->mutable_status() =
        ToRpcStatus(result.status());
  }
  if (index == 0) {
    *outcome.response.mutable_model() = EncodeModelVersion(model_->info());
  }
  const std::shared_ptr<StreamCall> self = shared_from_this();
  // Held over Answer(), so that two threads' answers stay in order.
  absl::MutexLock lock(&line_mutex_);
  line_.emplace(index, std::move(outcome));
  for (auto first = line_.begin();
       first != line_.end() && first->first == next_answer_;
       first = line_.erase(first)) {
    ++next_answer_;
    Answer({&first->second.response}, first->second.stages);
  }
}

}  // namespace quern
