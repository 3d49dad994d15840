#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace quern::cli {

// Checks that queries and predictions name the same identifiers.
// INVALID_ARGUMENT names those that only one side has, in the order given, and
// --allow-missing as the cure. `id_name` is what the files call an identifier.
absl::Status CheckSameQueries(const std::string& id_name,
                              const std::vector<std::string>& queries,
                              const std::vector<std::string>& predictions);

}  // namespace quern::cli
