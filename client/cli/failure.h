#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quern::cli {

// The command line is at fault: exit status 2.
absl::Status UsageError(absl::string_view message);
bool IsUsageError(const absl::Status& status);

// One sentence for the user, safe for a terminal: what went wrong and, where it
// is known, the cure. `address` is the server that was talked to.
std::string Explain(const absl::Status& status, absl::string_view address);

}  // namespace quern::cli
