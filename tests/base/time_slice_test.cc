#include "engine/base/time_slice.h"

#include <thread>

#include "gtest/gtest.h"
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/time_slice.h"

namespace quern {
namespace {

class TimeSliceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (TimeSliceOfThread() == absl::ZeroDuration()) {
      GTEST_SKIP() << "the kernel has no time slices: Linux 6.12 does";
    }
  }
};

TEST_F(TimeSliceTest, IsThatOfTheThreadAndOfThoseItStarts) {
  const absl::Duration before = TimeSliceOfThread();
  absl::Duration long_one, short_one, inherited;
  std::thread([&] {
    SetTimeSlice(TimeSlice::kLong);
    long_one = TimeSliceOfThread();
    SetTimeSlice(TimeSlice::kShort);
    short_one = TimeSliceOfThread();
    std::thread([&] { inherited = TimeSliceOfThread(); }).join();
  }).join();
  EXPECT_EQ(long_one, absl::Milliseconds(20));
  EXPECT_EQ(short_one, absl::Microseconds(100));
  EXPECT_EQ(inherited, short_one);
  EXPECT_EQ(TimeSliceOfThread(), before);
}

TEST_F(TimeSliceTest, LeavesTheNicenessAlone) {
  int niceness = 0;
  std::thread([&] {
    const auto thread = static_cast<id_t>(gettid());
    setpriority(PRIO_PROCESS, thread, 7);
    SetTimeSlice(TimeSlice::kLong);
    niceness = getpriority(PRIO_PROCESS, thread);
  }).join();
  EXPECT_EQ(niceness, 7);
}

}  // namespace
}  // namespace quern
