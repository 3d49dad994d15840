#include "engine/index/huge_buffer.h"

#include <cerrno>
#include <utility>

#include "gtest/gtest.h"
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr size_t kLarge = size_t{5} << 20;

TEST(HugeBufferTest, IsZeroAndKeepsWhatIsWritten) {
  HugeBuffer buffer = ValueOrDie(HugeBuffer::Create(kLarge + 1));
  EXPECT_EQ(buffer.size(), kLarge + 1);
  EXPECT_EQ(buffer.data()[kLarge], 0);
  buffer.data()[7] = 1;
  buffer.data()[kLarge] = 2;
  HugeBuffer moved = std::move(buffer);
  EXPECT_EQ(moved.data()[kLarge], 2);
  moved.Shrink(8);
  EXPECT_EQ(moved.size(), 8u);
  EXPECT_EQ(moved.data()[7], 1);
}

TEST(HugeBufferTest, NothingIsABufferAndTooMuchIsNone) {
  EXPECT_EQ(ValueOrDie(HugeBuffer::Create(0)).size(), 0u);
  EXPECT_THAT(HugeBuffer::Create(size_t{1} << 60),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(HugeBufferTest, LargeOnesAreSpreadOverTheNodes) {
  HugeBuffer buffer = ValueOrDie(HugeBuffer::Create(kLarge));
  int mode = -1;
  if (syscall(SYS_get_mempolicy, &mode, nullptr, 0, buffer.data(),
              MPOL_F_ADDR) != 0) {
    GTEST_SKIP() << "this system does not tell where memory lies: errno "
                 << errno;
  }
  EXPECT_EQ(mode, MPOL_INTERLEAVE);
}

}  // namespace
}  // namespace quern
