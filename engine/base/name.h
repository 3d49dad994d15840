#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quern {

// Names of what gets a folder: [a-z0-9][a-z0-9_-]{0,62}, so that none can lead
// out of its parent or be hidden. `kind` is what it would name: "collection".
// Errors: kInvalidArgument on `field`.
absl::Status CheckName(absl::string_view name, absl::string_view kind,
                       absl::string_view field = "name");

}  // namespace quern
