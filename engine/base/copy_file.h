#pragma once

#include <string>

#include "absl/status/status.h"

#include "engine/base/request_context.h"

// Files that get a copy or a second name. Errors are those of the system call,
// naming the path, as in file.h, and what context.Check() gives between two
// pieces of a copy.

namespace quern {

// A new file of its own with the same bytes, synced. `to` must not exist.
absl::Status CopyFile(const std::string& from, const std::string& to,
                      const RequestContext& context);

// A second name for a file that never changes; a copy where the file system
// does not do that. `to` must not exist.
absl::Status LinkFile(const std::string& from, const std::string& to,
                      const RequestContext& context);

}  // namespace quern
