#include "server/upsert_call.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/arena.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/parse_message.h"

namespace quern {

StreamCall* UpsertCall::Start(const RpcEnvironment& environment,
                              const std::string& method,
                              grpc::CallbackServerContext* server_context,
                              const Engine* engine, int64_t window) {
  return StreamCall::Start(absl::WrapUnique(
      new UpsertCall(environment, method, server_context, engine, window)));
}

UpsertCall::UpsertCall(const RpcEnvironment& environment,
                       const std::string& method,
                       grpc::CallbackServerContext* server_context,
                       const Engine* engine, int64_t window)
    : StreamCall(environment, method, server_context, window),
      engine_(engine) {}

absl::Status UpsertCall::Open(const v1::UpsertRequest& first) {
  if (first.collection().empty()) {
    return InvalidField("collection",
                        "is empty; the first message must name it");
  }
  // Before anything is embedded that cannot be stored.
  QUERN_RETURN_IF_ERROR(engine_->catalog().CheckWritable());
  QUERN_ASSIGN_OR_RETURN(std::shared_ptr<Collection> collection,
                         engine_->catalog().Get(first.collection()));
  collection_ = first.collection();
  session_ = UpsertSession::Create(
      engine_, environment().streams, context(), std::move(collection),
      [this](const std::vector<UpsertResult>& results) { OnResults(results); });
  return absl::OkStatus();
}

absl::Status UpsertCall::OnMessage(grpc::ByteBuffer message) {
  const auto request = std::make_shared<v1::UpsertRequest>();
  const auto bytes = static_cast<int64_t>(message.Length());
  absl::Status status = ParseMessage(message, *request);
  if (session_ == nullptr) {
    QUERN_RETURN_IF_ERROR(status);
    QUERN_RETURN_IF_ERROR(Open(*request));
  }
  // The last result may end the call, and this object with it.
  const std::shared_ptr<UpsertSession> session = session_;
  if (!status.ok()) {
    session->AddRefused("", std::move(status));
    return absl::OkStatus();
  }
  if (!request->collection().empty() && request->collection() != collection_) {
    session->AddRefused(
        request->id(),
        InvalidField(
            "collection",
            absl::StrCat("is ", Quoted(request->collection()),
                         "; this stream is for ", Quoted(collection_))));
    return absl::OkStatus();
  }
  absl::StatusOr<UpsertInput> input = DecodeUpsert(*request);
  if (input.ok()) {
    if (request->has_embedding()) CountBySize(bytes);
    session->Add(*std::move(input), request);
  } else {
    session->AddRefused(request->id(), input.status());
  }
  return absl::OkStatus();
}

void UpsertCall::OnResults(const std::vector<UpsertResult>& results) {
  google::protobuf::Arena arena;
  std::vector<const google::protobuf::Message*> answers;
  std::vector<StageTime> stages;
  answers.reserve(results.size());
  for (const UpsertResult& result : results) {
    environment().metrics->RecordUpsert(result.status.code());
    auto* answer =
        google::protobuf::Arena::CreateMessage<v1::UpsertResponse>(&arena);
    EncodeUpsert(result, answer);
    answers.push_back(answer);
    stages.insert(stages.end(), result.stages.begin(), result.stages.end());
  }
  Answer(answers, stages);
}

}  // namespace quern
