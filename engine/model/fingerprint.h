#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quern {

// Hex SHA-256 that identifies a set of files by their names and contents. It is
// taken over one line per file, in byte order of the relative paths and each
// path once: "<path> NUL <size in decimal> NUL <hex SHA-256 of the contents>
// LF". `paths` are relative to `folder`. Errors: kFailedPrecondition naming a
// file that cannot be read.
absl::StatusOr<std::string> FingerprintFiles(
    const std::string& folder, absl::Span<const std::string> paths);

}  // namespace quern
