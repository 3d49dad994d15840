#include "engine/base/request_context.h"

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::HasSubstr;

const absl::Time kNow = absl::FromUnixSeconds(1'000'000);

TEST(RequestContextTest, PassesUntilTheDeadline) {
  FakeClock clock(kNow);
  const RequestContext context(&clock, "r1", kNow + absl::Seconds(2));

  EXPECT_THAT(context.Check("search"), IsOk());
  clock.Advance(absl::Seconds(2) - absl::Nanoseconds(1));
  EXPECT_THAT(context.Check("search"), IsOk());
  clock.Advance(absl::Nanoseconds(1));
  EXPECT_THAT(
      context.Check("search"),
      StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("search")));
}

TEST(RequestContextTest, WithoutADeadlineItNeverPasses) {
  FakeClock clock(kNow);
  const RequestContext context(&clock, "r1");
  clock.Advance(absl::Hours(24 * 365 * 100));
  EXPECT_THAT(context.Check("search"), IsOk());
}

TEST(RequestContextTest, AsksTheCallerWhetherItHasGone) {
  const FakeClock clock(absl::UnixEpoch());
  RequestContext context(&clock, "id");
  bool has_gone = false;
  context.AskCaller([&] { return has_gone; });
  const RequestContext part(RequestContext::PartOf{&context});
  EXPECT_TRUE(part.Check("x").ok());
  has_gone = true;
  EXPECT_EQ(context.Check("x").code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(part.Check("x").code(), absl::StatusCode::kCancelled);
}

TEST(RequestContextTest, CancellationComesBeforeTheDeadline) {
  FakeClock clock(kNow);
  RequestContext context(&clock, "r1", kNow);
  context.Cancel();
  EXPECT_TRUE(context.cancelled());
  EXPECT_THAT(context.Check("search"),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("search")));
}

TEST(RequestContextTest, StageTimesAddUpInOrderOfFirstUse) {
  FakeClock clock(kNow);
  RequestContext context(&clock, "r1");
  {
    StageTimer decode(context, "decode");
    clock.Advance(absl::Milliseconds(3));
  }
  {
    StageTimer encode(context, "encode");
    clock.Advance(absl::Milliseconds(5));
  }
  context.AddStageTime("decode", absl::Milliseconds(4));

  ASSERT_EQ(context.stage_times().size(), 2u);
  EXPECT_EQ(context.stage_times()[0].stage, "decode");
  EXPECT_EQ(context.stage_times()[0].duration, absl::Milliseconds(7));
  EXPECT_EQ(context.stage_times()[1].stage, "encode");
  EXPECT_EQ(context.stage_times()[1].duration, absl::Milliseconds(5));
}

TEST(RequestContextTest, APartEndsWithItsWhole) {
  FakeClock clock(absl::UnixEpoch());
  RequestContext whole(&clock, "id", absl::UnixEpoch() + absl::Seconds(5),
                       Lane::kBulk);
  RequestContext part(RequestContext::PartOf{&whole});
  RequestContext other(RequestContext::PartOf{&whole});
  EXPECT_EQ(part.id(), "id");
  EXPECT_EQ(part.lane(), Lane::kBulk);
  part.AddStageTime("search", absl::Seconds(1));
  EXPECT_TRUE(whole.stage_times().empty());
  part.Cancel();
  EXPECT_EQ(part.Check("x").code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(whole.Check("x").ok());
  EXPECT_TRUE(other.Check("x").ok());
  clock.Advance(absl::Seconds(6));
  EXPECT_EQ(other.Check("x").code(), absl::StatusCode::kDeadlineExceeded);
  whole.Cancel();
  EXPECT_EQ(other.Check("x").code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace quern
