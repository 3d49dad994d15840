#include "engine/base/work_crew.h"

#include <atomic>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int> Values(const std::vector<std::atomic<int>>& counts) {
  return {counts.begin(), counts.end()};
}

TEST(WorkCrewTest, DoesEachPieceOnce) {
  for (const int threads : {0, 1, 3}) {
    WorkCrew crew({.threads = threads});
    EXPECT_EQ(crew.workers(), threads + 1);
    std::vector<std::atomic<int>> done(1000);
    EXPECT_THAT(crew.Run(1000,
                         [&](int64_t piece, int worker) {
                           EXPECT_GE(worker, 0);
                           EXPECT_LT(worker, crew.workers());
                           ++done[piece];
                           return absl::OkStatus();
                         }),
                IsOk());
    EXPECT_THAT(Values(done), Each(1));
  }
}

TEST(WorkCrewTest, NoPiecesAreNoWork) {
  WorkCrew crew({.threads = 2});
  EXPECT_THAT(crew.Run(0,
                       [](int64_t, int) {
                         ADD_FAILURE();
                         return absl::OkStatus();
                       }),
              IsOk());
}

TEST(WorkCrewTest, PiecesRunSideBySideByDifferentWorkers) {
  WorkCrew crew({.threads = 3});
  // Four pieces wait for each other: fewer threads would hang.
  auto* barrier = new absl::Barrier(4);
  std::vector<std::atomic<int>> of_worker(4);
  EXPECT_THAT(crew.Run(4,
                       [&](int64_t, int worker) {
                         ++of_worker[worker];
                         if (barrier->Block()) delete barrier;
                         return absl::OkStatus();
                       }),
              IsOk());
  EXPECT_THAT(Values(of_worker), Each(1));
}

TEST(WorkCrewTest, WhoFindsAllBusyWorksAlone) {
  WorkCrew crew({.threads = 1});
  absl::Notification both_work;
  absl::Notification free;
  std::thread first([&] {
    auto* barrier = new absl::Barrier(2);
    EXPECT_THAT(crew.Run(2,
                         [&](int64_t, int) {
                           if (barrier->Block()) {
                             delete barrier;
                             both_work.Notify();
                           }
                           free.WaitForNotification();
                           return absl::OkStatus();
                         }),
                IsOk());
  });
  both_work.WaitForNotification();
  std::vector<int64_t> done;
  EXPECT_THAT(crew.Run(3,
                       [&](int64_t piece, int worker) {
                         EXPECT_EQ(worker, 0);
                         done.push_back(piece);
                         return absl::OkStatus();
                       }),
              IsOk());
  EXPECT_THAT(done, ElementsAre(0, 1, 2));
  free.Notify();
  first.join();
}

TEST(WorkCrewTest, PiecesAfterAnErrorDoNotBegin) {
  WorkCrew alone({.threads = 0});
  std::vector<int64_t> done;
  EXPECT_THAT(alone.Run(10,
                        [&](int64_t piece, int) {
                          done.push_back(piece);
                          return piece == 2 ? absl::DataLossError("lost")
                                            : absl::OkStatus();
                        }),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(done, ElementsAre(0, 1, 2));

  WorkCrew crew({.threads = 3});
  constexpr int64_t kPieces = 100'000;
  absl::Notification failing;
  std::atomic<int64_t> begun = 0;
  EXPECT_THAT(crew.Run(kPieces,
                       [&](int64_t piece, int) -> absl::Status {
                         ++begun;
                         if (piece == 0) {
                           failing.Notify();
                           return absl::DataLossError("lost");
                         }
                         failing.WaitForNotification();
                         absl::SleepFor(absl::Milliseconds(1));
                         return absl::OkStatus();
                       }),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_LT(begun, kPieces);
}

TEST(WorkCrewTest, AnErrorLeavesTheCrewAsItWas) {
  WorkCrew crew({.threads = 2});
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(
        crew.Run(5, [](int64_t, int) { return absl::DataLossError("lost"); }),
        StatusIs(absl::StatusCode::kDataLoss));
  }
  auto* barrier = new absl::Barrier(3);
  EXPECT_THAT(crew.Run(3,
                       [&](int64_t, int) {
                         if (barrier->Block()) delete barrier;
                         return absl::OkStatus();
                       }),
              IsOk());
}

TEST(WorkCrewTest, CallersAtTheSameTimeGetTheirOwnPiecesDone) {
  WorkCrew crew({.threads = 2});
  std::vector<std::thread> callers;
  callers.reserve(4);
  std::vector<int64_t> wrong;
  absl::Mutex mutex;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int64_t round = 0; round < 300; ++round) {
        std::vector<int64_t> sums(crew.workers());
        EXPECT_THAT(crew.Run(round % 20,
                             [&](int64_t piece, int worker) {
                               sums[worker] += piece + 1;
                               return absl::OkStatus();
                             }),
                    IsOk());
        int64_t sum = 0;
        for (const int64_t part : sums) sum += part;
        const int64_t pieces = round % 20;
        if (sum == pieces * (pieces + 1) / 2) continue;
        absl::MutexLock lock(&mutex);
        wrong.push_back(round);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(wrong, IsEmpty());
}

TEST(WorkCrewTest, APieceMayRunPiecesOfItsOwn) {
  WorkCrew crew({.threads = 1});
  std::atomic<int> done = 0;
  EXPECT_THAT(crew.Run(4,
                       [&](int64_t, int) {
                         return crew.Run(4, [&](int64_t, int) {
                           ++done;
                           return absl::OkStatus();
                         });
                       }),
              IsOk());
  EXPECT_EQ(done, 16);
}

// Exits with 0 where a crew does its work although no thread can be started.
[[noreturn]] void WorkWithoutThreads() {
  const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  setrlimit(RLIMIT_NPROC, &none);
  constexpr uid_t kNobody = 65534;  // The limit is not for root.
  if (getuid() == 0 && setuid(kNobody) != 0) std::_Exit(2);
  try {
    std::thread([] {}).join();
    std::_Exit(3);
  } catch (const std::system_error&) {
  }
  WorkCrew crew({.threads = 2});
  int done = 0;
  const absl::Status status = crew.Run(3, [&](int64_t, int) {
    ++done;
    return absl::OkStatus();
  });
  std::_Exit(status.ok() && done == 3 ? 0 : 1);
}

TEST(WorkCrewDeathTest, DoesWithoutTheThreadsThatThereAreNot) {
  EXPECT_EXIT(WorkWithoutThreads(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace quern
