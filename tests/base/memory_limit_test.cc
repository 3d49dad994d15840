#include "engine/base/memory_limit.h"

#include <filesystem>

#include "gtest/gtest.h"
#include <unistd.h>

#include "engine/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

TEST(MemoryLimitTest, IsTheMachinesUnlessAGroupHasLess) {
  const TemporaryDirectory groups;
  const int64_t machine =
      int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  const auto limit_with = [&](const std::string& file,
                              const std::string& text) {
    const std::string path = groups.File(file);
    std::filesystem::create_directories(
        std::filesystem::path(path).parent_path());
    EXPECT_THAT(WriteFileAtomically(path, text), IsOk());
    const int64_t limit = MemoryLimit(groups.path());
    std::filesystem::remove(path);
    return limit;
  };
  EXPECT_EQ(MemoryLimit(groups.path()), machine);
  for (const char* file : {"memory.max", "memory/memory.limit_in_bytes"}) {
    EXPECT_EQ(limit_with(file, "1048576\n"), 1'048'576);
    for (const char* none :
         {"max\n", "", "0\n", "-1\n", "9223372036854771712\n"}) {
      EXPECT_EQ(limit_with(file, none), machine) << file << ": " << none;
    }
  }
  EXPECT_LE(MemoryLimit(), machine);
}

}  // namespace
}  // namespace quern
