#include "engine/base/memory_limit.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include <unistd.h>

#include "engine/base/file.h"

namespace quern {

int64_t MemoryLimit(const std::string& groups) {
  int64_t limit = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  for (const char* file : {"memory.max", "memory/memory.limit_in_bytes"}) {
    const absl::StatusOr<std::string> text =
        ReadFile(absl::StrCat(groups, "/", file));
    int64_t bytes = 0;
    // "max" is none.
    if (text.ok() &&
        absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &bytes) &&
        bytes > 0) {
      limit = std::min(limit, bytes);
    }
  }
  return limit;
}

}  // namespace quern
