#include "server/active_calls.h"

#include <thread>

#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

class ActiveCallsTest : public ::testing::Test {
 protected:
  RealClock clock_;
  RequestContext context_{&clock_, "id"};
  ActiveCalls calls_;
};

TEST_F(ActiveCallsTest, CountsCallsUnderWay) {
  ASSERT_THAT(calls_.Enter(&context_), IsOk());
  EXPECT_EQ(calls_.count(), 1);
  calls_.Leave(&context_);
  EXPECT_EQ(calls_.count(), 0);
}

TEST_F(ActiveCallsTest, ClosedItRefusesNewCallsAndKeepsOldOnes) {
  ASSERT_THAT(calls_.Enter(&context_), IsOk());
  calls_.Close();
  RequestContext late(&clock_, "late");
  EXPECT_THAT(calls_.Enter(&late), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(calls_.count(), 1);
  EXPECT_FALSE(context_.cancelled());
  calls_.Leave(&context_);
}

TEST_F(ActiveCallsTest, WaitEndsWithTheLastCall) {
  ASSERT_THAT(calls_.Enter(&context_), IsOk());
  std::thread ends([this] { calls_.Leave(&context_); });
  EXPECT_TRUE(calls_.WaitUntilIdle(absl::InfiniteDuration()));
  ends.join();
}

TEST_F(ActiveCallsTest, WaitGivesUpAtItsTimeout) {
  ASSERT_THAT(calls_.Enter(&context_), IsOk());
  EXPECT_FALSE(calls_.WaitUntilIdle(absl::ZeroDuration()));
  calls_.Leave(&context_);
}

TEST_F(ActiveCallsTest, CancellingEndsTheWaitAndReachesTheCalls) {
  ASSERT_THAT(calls_.Enter(&context_), IsOk());
  std::thread cancels([this] { calls_.CancelAll(); });
  EXPECT_FALSE(calls_.WaitUntilIdle(absl::InfiniteDuration()));
  cancels.join();
  EXPECT_TRUE(context_.cancelled());
  calls_.Leave(&context_);
}

}  // namespace
}  // namespace quern
