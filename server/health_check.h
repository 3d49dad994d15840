#pragma once

#include <string>

#include "absl/status/status.h"

namespace quern {

// Asks grpc.health.v1 of the server at `address` whether it serves, for at most
// two seconds. Errors: kUnavailable, with the reason, when it does not.
absl::Status CheckHealth(const std::string& address);

}  // namespace quern
