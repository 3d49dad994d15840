#include "client/cpp/rpc_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace quern::client {
namespace {

constexpr absl::string_view kRetryPayload =
    "type.googleapis.com/google.rpc.RetryInfo";

// A code that this client does not know is kUnknown, as gRPC has it.
absl::StatusCode ToCode(int code) {
  constexpr int kLast = static_cast<int>(absl::StatusCode::kUnauthenticated);
  return code >= 0 && code <= kLast ? static_cast<absl::StatusCode>(code)
                                    : absl::StatusCode::kUnknown;
}

// "message" or "message (field: why; field: why)".
std::string WithViolations(absl::string_view message,
                           const google::rpc::BadRequest& bad_request) {
  std::vector<std::string> missing;
  for (const auto& violation : bad_request.field_violations()) {
    if (message.find(violation.field()) == absl::string_view::npos) {
      missing.push_back(
          absl::StrCat(violation.field(), ": ", violation.description()));
    }
  }
  if (missing.empty()) return std::string(message);
  return absl::StrCat(message, " (", absl::StrJoin(missing, "; "), ")");
}

}  // namespace

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  std::string message = status.message();
  std::string retry_info;
  for (const google::protobuf::Any& detail : status.details()) {
    google::rpc::BadRequest bad_request;
    if (detail.UnpackTo(&bad_request)) {
      message = WithViolations(message, bad_request);
    } else if (detail.Is<google::rpc::RetryInfo>()) {
      retry_info = detail.value();
    }
  }
  absl::Status result(ToCode(status.code()), message);
  if (!retry_info.empty()) {
    result.SetPayload(kRetryPayload, absl::Cord(retry_info));
  }
  return result;
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) rich.Clear();
  rich.set_code(status.error_code());
  rich.set_message(status.error_message());
  return FromRpcStatus(rich);
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryPayload);
  google::rpc::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return absl::Seconds(info.retry_delay().seconds()) +
         absl::Nanoseconds(info.retry_delay().nanos());
}

}  // namespace quern::client
