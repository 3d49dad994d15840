#include "server/grpc_status.h"

#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"

#include "engine/base/error.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

constexpr absl::string_view kTypeUrlPrefix = "type.googleapis.com/";
// Names and paths come from callers and may be of any length.
constexpr size_t kMaxDetailBytes = 256;

std::string SafeUtf8(absl::string_view text, size_t max_bytes) {
  std::string safe =
      IsValidUtf8(text) ? std::string(text) : absl::CHexEscape(text);
  if (safe.size() <= max_bytes) return safe;
  constexpr absl::string_view kEllipsis = "…";
  size_t end = max_bytes - kEllipsis.size();
  while (end > 0 && (safe[end] & 0xC0) == 0x80) --end;
  return absl::StrCat(absl::string_view(safe).substr(0, end), kEllipsis);
}

void AddDetails(const absl::Status& status, google::rpc::Status& out) {
  if (const std::optional<std::string> field = GetField(status)) {
    google::rpc::BadRequest detail;
    auto& violation = *detail.add_field_violations();
    violation.set_field(SafeUtf8(*field, kMaxDetailBytes));
    violation.set_description(out.message());
    out.add_details()->PackFrom(detail);
  }
  if (const std::optional<ResourceDetail> resource = GetResource(status)) {
    google::rpc::ResourceInfo detail;
    detail.set_resource_type(SafeUtf8(resource->type, kMaxDetailBytes));
    detail.set_resource_name(SafeUtf8(resource->name, kMaxDetailBytes));
    out.add_details()->PackFrom(detail);
  }
  if (std::optional<absl::Duration> delay = GetRetryDelay(status)) {
    google::rpc::RetryInfo detail;
    auto& out_delay = *detail.mutable_retry_delay();
    absl::Duration rest;
    out_delay.set_seconds(absl::IDivDuration(*delay, absl::Seconds(1), &rest));
    out_delay.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
    out.add_details()->PackFrom(detail);
  }
  status.ForEachPayload(
      [&out](absl::string_view url, const absl::Cord& payload) {
        if (!absl::StartsWith(url, kTypeUrlPrefix)) return;
        auto& detail = *out.add_details();
        detail.set_type_url(std::string(url));
        detail.set_value(std::string(payload));
      });
}

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status out;
  if (status.ok()) return out;
  // absl's codes are gRPC's.
  out.set_code(static_cast<int32_t>(status.code()));
  out.set_message(SafeUtf8(status.message(), kMaxErrorMessageBytes));
  AddDetails(status, out);
  return out;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status rpc_status = ToRpcStatus(status);
  return grpc::Status(
      static_cast<grpc::StatusCode>(rpc_status.code()), rpc_status.message(),
      rpc_status.details().empty() ? "" : rpc_status.SerializeAsString());
}

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.code()),
                      status.message());
  // raw_code() keeps what code() maps to kUnknown.
  if (!result.ok() && result.code() == absl::StatusCode::kUnknown) {
    result = absl::UnknownError(status.message());
  }
  for (const auto& detail : status.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  google::rpc::Status rpc_status;
  if (!rpc_status.ParseFromString(status.error_details())) rpc_status.Clear();
  rpc_status.set_code(status.error_code());
  rpc_status.set_message(status.error_message());
  return FromRpcStatus(rpc_status);
}

absl::string_view CodeName(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return "OK";
    case absl::StatusCode::kCancelled:
      return "CANCELLED";
    case absl::StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case absl::StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case absl::StatusCode::kNotFound:
      return "NOT_FOUND";
    case absl::StatusCode::kAlreadyExists:
      return "ALREADY_EXISTS";
    case absl::StatusCode::kPermissionDenied:
      return "PERMISSION_DENIED";
    case absl::StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case absl::StatusCode::kFailedPrecondition:
      return "FAILED_PRECONDITION";
    case absl::StatusCode::kAborted:
      return "ABORTED";
    case absl::StatusCode::kOutOfRange:
      return "OUT_OF_RANGE";
    case absl::StatusCode::kUnimplemented:
      return "UNIMPLEMENTED";
    case absl::StatusCode::kInternal:
      return "INTERNAL";
    case absl::StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case absl::StatusCode::kDataLoss:
      return "DATA_LOSS";
    case absl::StatusCode::kUnauthenticated:
      return "UNAUTHENTICATED";
    default:
      return "UNKNOWN";
  }
}

}  // namespace quern
