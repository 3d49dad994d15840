#include "engine/query/fine_stage.h"

#include <atomic>
#include <memory>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(20);

class FineStageTest : public testing::Test {
 protected:
  // Runs `work` and waits for what the stage says.
  absl::StatusOr<FineScores> Run(FineStage& stage,
                                 const RequestContext& context,
                                 FineStage::Work work) {
    absl::Notification done;
    absl::StatusOr<FineScores> result;
    stage.Run(context, std::move(work), [&](absl::StatusOr<FineScores> scores) {
      result = std::move(scores);
      done.Notify();
    });
    done.WaitForNotification();
    return result;
  }

  static absl::StatusOr<FineScores> OneScore(const RequestContext&) {
    FineScores scores;
    scores.scores["a"].score = 3;
    return scores;
  }

  RealClock clock_;
  ThreadPool calls_{{.name = "calls", .threads = 2}};
  const RequestContext context_{&clock_, "test"};
};

TEST_F(FineStageTest, GivesWhatTheWorkGives) {
  FineStage stage({.threads = 1}, &calls_);
  EXPECT_EQ(ValueOrDie(Run(stage, context_, OneScore)).scores.at("a").score, 3);
  EXPECT_THAT(Run(stage, context_,
                  [](const RequestContext&) -> absl::StatusOr<FineScores> {
                    return absl::DataLossError("nonsense");
                  }),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(FineStageTest, WorkThatIsLateIsNotWaitedFor) {
  FineStage stage({.threads = 1, .timeout = kShort}, &calls_);
  absl::Notification ended;
  EXPECT_THAT(Run(stage, context_,
                  [&](const RequestContext& context) {
                    // As hanging work would, but for the test's end.
                    while (!context.cancelled()) {
                    }
                    ended.Notify();
                    return OneScore(context);
                  }),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  // It was told that nobody waits.
  ended.WaitForNotification();
  // The stage goes on.
  EXPECT_THAT(Run(stage, context_, OneScore), IsOk());
}

TEST_F(FineStageTest, WhatWaitsInTheQueueIsLateToo) {
  FineStage stage({.threads = 1, .timeout = kShort}, &calls_);
  absl::Notification open;
  absl::Notification first_done;
  stage.Run(
      context_,
      [&open](const RequestContext& context) {
        open.WaitForNotification();
        return OneScore(context);
      },
      [&](const absl::StatusOr<FineScores>&) { first_done.Notify(); });
  std::atomic<bool> has_run = false;
  EXPECT_THAT(Run(stage, context_,
                  [&](const RequestContext& context) {
                    has_run = true;
                    return OneScore(context);
                  }),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  first_done.WaitForNotification();
  open.Notify();
  stage.Shutdown();
  EXPECT_FALSE(has_run);
}

TEST_F(FineStageTest, TakesAShareOfTheCallsDeadline) {
  FineStage stage({.threads = 1, .timeout = absl::Hours(1)}, &calls_);
  const absl::Time now = clock_.Now();
  const RequestContext context(&clock_, "test", now + absl::Hours(1));
  absl::Time deadline;
  EXPECT_THAT(Run(stage, context,
                  [&](const RequestContext& given) {
                    deadline = given.deadline();
                    return OneScore(given);
                  }),
              IsOk());
  EXPECT_GE(deadline, now + absl::Minutes(48));
  EXPECT_LT(deadline, now + absl::Minutes(49));
}

TEST_F(FineStageTest, AFullQueueRefusesAtOnce) {
  FineStage stage({.threads = 1, .max_queue = 1}, &calls_);
  absl::Notification running;
  absl::Notification open;
  absl::BlockingCounter done(2);
  const auto wait = [&](const RequestContext& context) {
    if (!running.HasBeenNotified()) running.Notify();
    open.WaitForNotification();
    return OneScore(context);
  };
  const auto count = [&](const absl::StatusOr<FineScores>& scores) {
    EXPECT_THAT(scores, IsOk());
    done.DecrementCount();
  };
  stage.Run(context_, wait, count);
  running.WaitForNotification();
  stage.Run(context_, wait, count);
  EXPECT_EQ(stage.queued(), 1);
  EXPECT_THAT(Run(stage, context_, OneScore),
              StatusIs(absl::StatusCode::kResourceExhausted));
  open.Notify();
  done.Wait();
}

TEST_F(FineStageTest, ACallThatIsCancelledIsEnded) {
  FineStage stage({.threads = 1}, &calls_);
  RequestContext context(&clock_, "test");
  absl::Notification ended;
  EXPECT_THAT(Run(stage, context,
                  [&](const RequestContext& given) {
                    context.Cancel();
                    while (!given.cancelled()) {
                    }
                    ended.Notify();
                    return OneScore(given);
                  }),
              StatusIs(absl::StatusCode::kCancelled));
  ended.WaitForNotification();
}

TEST_F(FineStageTest, ManyCallsAreAllAnswered) {
  constexpr int kCalls = 500;
  FineStage stage({.threads = 4, .max_queue = kCalls}, &calls_);
  absl::BlockingCounter done(kCalls);
  std::atomic<int> good = 0;
  for (int i = 0; i < kCalls; ++i) {
    stage.Run(context_, OneScore,
              [&](const absl::StatusOr<FineScores>& scores) {
                if (scores.ok()) ++good;
                done.DecrementCount();
              });
  }
  done.Wait();
  EXPECT_EQ(good, kCalls);
}

}  // namespace
}  // namespace quern
