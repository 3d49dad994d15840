#pragma once

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

// The one mapper between absl::Status and what gRPC sends.
//
// Details travel as google.rpc messages: BadRequest for InvalidField(),
// ResourceInfo for NotFound() and AlreadyExists(), RetryInfo for Overloaded().
// Other payloads of the status go along when their type URL is one of
// type.googleapis.com.

namespace quern {

// Messages are cut to this, so that they and the details fit into the 8 KiB of
// metadata that gRPC clients take by default.
inline constexpr size_t kMaxErrorMessageBytes = 1024;

// Message and details are valid UTF-8 whatever the status holds.
google::rpc::Status ToRpcStatus(const absl::Status& status);
grpc::Status ToGrpcStatus(const absl::Status& status);

// Details come back as payloads under their type URL. An unknown code becomes
// kUnknown.
absl::Status FromRpcStatus(const google::rpc::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// "INVALID_ARGUMENT": for logs and metrics. Unknown codes give "UNKNOWN".
absl::string_view CodeName(absl::StatusCode code);

}  // namespace quern
