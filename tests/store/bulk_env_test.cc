#include "engine/store/bulk_env.h"

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/thread_priority.h"

namespace quern {
namespace {

// Cores that the calling thread may use.
cpu_set_t Cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  EXPECT_EQ(sched_getaffinity(0, sizeof(cores), &cores), 0);
  return cores;
}

struct Seen {
  int niceness = 0;
  cpu_set_t cores;
  absl::Notification done;
};

void Look(void* argument) {
  auto* seen = static_cast<Seen*>(argument);
  seen->niceness = getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
  seen->cores = Cores();
  seen->done.Notify();
}

TEST(BulkEnvTest, JobsGiveWayToCalls) {
  BulkEnv env(rocksdb::Env::Default());
  for (const auto priority : {rocksdb::Env::LOW, rocksdb::Env::HIGH}) {
    env.IncBackgroundThreadsIfNeeded(1, priority);
    Seen seen;
    env.Schedule(&Look, &seen, priority, nullptr, nullptr);
    seen.done.WaitForNotification();
    EXPECT_GE(seen.niceness, kBulkNiceness);
    cpu_set_t expected = Cores();
    if (CPU_COUNT(&expected) > 1) {
      int first = 0;
      while (!CPU_ISSET(first, &expected)) ++first;
      CPU_CLR(first, &expected);
    }
    EXPECT_TRUE(CPU_EQUAL(&seen.cores, &expected));
  }
}

struct Counts {
  absl::Notification begun;
  absl::Notification may_end;
  int runs = 0;
  int unscheduled = 0;
};

void Wait(void* argument) {
  auto* counts = static_cast<Counts*>(argument);
  counts->begun.Notify();
  counts->may_end.WaitForNotification();
}
void CountRun(void* argument) { ++static_cast<Counts*>(argument)->runs; }
void CountUnscheduled(void* argument) {
  ++static_cast<Counts*>(argument)->unscheduled;
}

// Under AddressSanitizer, too, which would find a job that leaks.
TEST(BulkEnvTest, TakesJobsBack) {
  BulkEnv env(rocksdb::Env::Default());
  env.SetBackgroundThreads(1, rocksdb::Env::BOTTOM);
  Counts counts;
  env.Schedule(&Wait, &counts, rocksdb::Env::BOTTOM, nullptr, nullptr);
  counts.begun.WaitForNotification();
  int tag = 0;
  env.Schedule(&CountRun, &counts, rocksdb::Env::BOTTOM, &tag,
               &CountUnscheduled);
  env.Schedule(&CountRun, &counts, rocksdb::Env::BOTTOM, &tag, nullptr);
  EXPECT_EQ(env.UnSchedule(&tag, rocksdb::Env::BOTTOM), 2);
  EXPECT_EQ(counts.unscheduled, 1);
  counts.may_end.Notify();
  Seen after;
  env.Schedule(&Look, &after, rocksdb::Env::BOTTOM, nullptr, nullptr);
  after.done.WaitForNotification();
  EXPECT_EQ(counts.runs, 0);
}

}  // namespace
}  // namespace quern
