#include "engine/base/thread_pool.h"

#include <atomic>
#include <string>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sched.h>

#include "engine/base/error.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ThreadPoolTest, RunsTasksInOrderOnOneThread) {
  std::vector<int> ran;
  {
    ThreadPool pool({.threads = 1});
    for (int i = 0; i < 3; ++i) {
      ASSERT_THAT(pool.Submit([&ran, i] { ran.push_back(i); }), IsOk());
    }
  }
  EXPECT_THAT(ran, ElementsAre(0, 1, 2));
}

TEST(ThreadPoolTest, RunsOneTaskPerThreadAtTheSameTime) {
  ThreadPool pool({.threads = 3});
  // Three tasks and the test wait for each other: fewer threads would hang.
  auto* barrier = new absl::Barrier(4);
  const auto meet = [barrier] {
    if (barrier->Block()) delete barrier;
  };
  for (int i = 0; i < 3; ++i) ASSERT_THAT(pool.Submit(meet), IsOk());
  meet();
}

TEST(ThreadPoolTest, RefusesWhatDoesNotFitIntoTheQueue) {
  absl::Notification started;
  absl::Notification release;
  std::atomic<int> ran = 0;
  ThreadPool pool({.name = "decoders", .threads = 1, .max_queue = 2});
  ASSERT_THAT(pool.Submit([&] {
    started.Notify();
    release.WaitForNotification();
  }),
              IsOk());
  started.WaitForNotification();
  const auto task = [&ran] { ++ran; };
  ASSERT_THAT(pool.Submit(task), IsOk());
  ASSERT_THAT(pool.Submit(task), IsOk());
  EXPECT_EQ(pool.queued(), 2u);

  const absl::Status refused = pool.Submit(task);

  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("decoders")));
  EXPECT_TRUE(GetRetryDelay(refused).has_value());
  release.Notify();
  pool.Shutdown();
  EXPECT_EQ(ran, 2);
}

TEST(ThreadPoolTest, ResumedWorkGoesFirstAndEveryFourthTurnIsBulk) {
  absl::Notification started;
  absl::Notification release;
  std::string ran;
  ThreadPool pool({.threads = 1, .max_queue = 9});
  ASSERT_THAT(pool.Submit([&] {
    started.Notify();
    release.WaitForNotification();
  }),
              IsOk());
  started.WaitForNotification();
  const auto task = [&ran](char name) { return [&ran, name] { ran += name; }; };
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(pool.Submit(task('b'), Lane::kBulk), IsOk());
  }
  for (int i = 0; i < 6; ++i) ASSERT_THAT(pool.Submit(task('i')), IsOk());
  // The queue is full, but not for these.
  EXPECT_THAT(pool.Submit(task('x')),
              StatusIs(absl::StatusCode::kResourceExhausted));
  pool.Resume(task('r'));
  release.Notify();
  pool.Shutdown();
  EXPECT_EQ(ran, "riiibiiibb");
  pool.Resume(task('r'));
  EXPECT_EQ(ran, "riiibiiibbr");
}

TEST(ThreadPoolTest, ShutdownRunsWhatIsQueuedAndRefusesTheRest) {
  std::atomic<int> ran = 0;
  ThreadPool pool({.threads = 2});
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(pool.Submit([&ran] { ++ran; }), IsOk());
  }
  pool.Shutdown();
  EXPECT_EQ(ran, 100);
  EXPECT_THAT(pool.Submit([&ran] { ++ran; }),
              StatusIs(absl::StatusCode::kUnavailable));
  pool.Shutdown();
  EXPECT_EQ(ran, 100);
}

TEST(ThreadPoolTest, LeavesTheFirstCoreIfThereAreOthers) {
  cpu_set_t cores;
  ASSERT_EQ(sched_getaffinity(0, sizeof(cores), &cores), 0);
  int first = 0;
  while (!CPU_ISSET(first, &cores)) ++first;
  ThreadPool pool({.threads = 1, .leaves_first_core = true});
  cpu_set_t of_thread;
  absl::Notification done;
  ASSERT_THAT(pool.Submit([&] {
    EXPECT_EQ(sched_getaffinity(0, sizeof(of_thread), &of_thread), 0);
    done.Notify();
  }),
              IsOk());
  done.WaitForNotification();
  if (CPU_COUNT(&cores) > 1) CPU_CLR(first, &cores);
  EXPECT_TRUE(CPU_EQUAL(&of_thread, &cores));
}

}  // namespace
}  // namespace quern
