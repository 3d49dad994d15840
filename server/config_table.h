#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quern {

// The configuration as a Markdown table (key, default, meaning), made from the
// comments of config.proto. `descriptor_set` is a serialised
// google.protobuf.FileDescriptorSet with its source information. Errors:
// kInvalidArgument for one without config.proto.
absl::StatusOr<std::string> ConfigTable(absl::string_view descriptor_set);

// The set that was built into this binary.
absl::string_view BuiltInDescriptorSet();

}  // namespace quern
