#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quern {

// Errors: kInvalidArgument (no field path) unless `path` is dotted names, 1 to
// 256 bytes in all.
absl::Status CheckGroupPath(absl::string_view path);

// What `payload`, a serialised google.protobuf.Struct, has at the dotted
// `path`, such that equal values, and no others, give equal keys: text, a
// number or a truth value; nullopt for everything else. Errors: kDataLoss for a
// payload that cannot be read.
absl::StatusOr<std::optional<std::string>> GroupKey(absl::string_view payload,
                                                    absl::string_view path);

}  // namespace quern
