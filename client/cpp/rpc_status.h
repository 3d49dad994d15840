#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace google::rpc {
class Status;
}  // namespace google::rpc

namespace grpc {
class Status;
}  // namespace grpc

// What a server answers, as absl::Status.

namespace quern::client {

// The code and the message; field violations that the message does not name are
// put behind it, and a RetryInfo is kept for RetryDelay().
absl::Status FromGrpcStatus(const grpc::Status& status);

// Likewise, of a status inside a response.
absl::Status FromRpcStatus(const google::rpc::Status& status);

// How long the server asked to wait before the next attempt, if it did.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

}  // namespace quern::client
