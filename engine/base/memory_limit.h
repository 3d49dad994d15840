#pragma once

#include <cstdint>
#include <string>

namespace quern {

// Bytes of memory that this process may use: those of the machine, or less
// where its control group has a limit (version 1 or 2, mounted at `groups`, as
// in a container).
int64_t MemoryLimit(const std::string& groups = "/sys/fs/cgroup");

}  // namespace quern
