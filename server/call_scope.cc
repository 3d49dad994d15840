#include "server/call_scope.h"

#include <chrono>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "server/grpc_status.h"
#include "server/log.h"

namespace quern {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";
constexpr size_t kMaxRequestIdBytes = 128;

std::string RequestId(const grpc::CallbackServerContext& server_context) {
  const auto& metadata = server_context.client_metadata();
  const auto given = metadata.find(kRequestIdKey);
  if (given != metadata.end()) {
    const absl::string_view id(given->second.data(), given->second.size());
    if (!id.empty() && id.size() <= kMaxRequestIdBytes &&
        absl::c_all_of(id, absl::ascii_isprint)) {
      return std::string(id);
    }
  }
  thread_local absl::InsecureBitGen random;
  return absl::StrFormat("%016x", absl::Uniform<uint64_t>(random));
}

absl::Time Deadline(const grpc::CallbackServerContext& server_context) {
  const auto deadline = server_context.deadline();
  return deadline == std::chrono::system_clock::time_point::max()
             ? absl::InfiniteFuture()
             : absl::FromChrono(deadline);
}

// Errors that are the server's own.
bool IsServerFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal ||
         code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

}  // namespace

CallScope::CallScope(const RpcEnvironment& environment,
                     const std::string& method,
                     grpc::CallbackServerContext* server_context, Lane lane)
    : environment_(environment),
      method_(method),
      peer_(server_context->peer()),
      arrival_(environment.clock->Now()),
      context_(environment.clock, RequestId(*server_context),
               Deadline(*server_context), lane),
      admission_(environment.calls->Enter(&context_)) {
  server_context->AddInitialMetadata(kRequestIdKey, context_.id());
}

CallScope::~CallScope() {
  Measure();
  WriteLog();
  environment_.calls->Leave(&context_);
}

grpc::Status CallScope::End(absl::Status status) {
  const absl::Time now = environment_.clock->Now();
  // gRPC cancels a call whose deadline passes; the caller sees the deadline.
  if (absl::IsCancelled(status) && now >= context_.deadline()) {
    status = absl::DeadlineExceededError("the deadline passed");
  }
  status_ = std::move(status);
  duration_ = now - arrival_;
  return ToGrpcStatus(status_);
}

void CallScope::Measure() const {
  environment_.metrics->RecordCall({.method = method_,
                                    .code = status_.code(),
                                    .duration = duration_,
                                    .stages = context_.stage_times(),
                                    .received_bytes = received_bytes_,
                                    .sent_bytes = sent_bytes_});
}

void CallScope::WriteLog() const {
  const LogLevel level =
      IsServerFault(status_.code()) ? LogLevel::kError : LogLevel::kInfo;
  if (!IsLogged(level)) return;
  std::vector<LogField> fields = {
      {"method", method_},
      {"id", context_.id()},
      {"code", CodeName(status_.code())},
      {"ms", absl::ToDoubleMilliseconds(duration_)}};
  for (const StageTime& stage : context_.stage_times()) {
    fields.emplace_back(absl::StrCat(stage.stage, "_ms"),
                        absl::ToDoubleMilliseconds(stage.duration));
  }
  fields.emplace_back("received_bytes", received_bytes_);
  fields.emplace_back("sent_bytes", sent_bytes_);
  fields.emplace_back("peer", peer_);
  if (!status_.ok()) {
    fields.emplace_back("error", ToRpcStatus(status_).message());
  }
  Log(level, "call", fields);
}

}  // namespace quern
