#include "engine/store/id_locks.h"

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quern {
namespace {

constexpr int kThreads = 4;
constexpr int kSteps = 2000;

TEST(IdLocksTest, DifferentIdsAreHeldSideBySide) {
  IdLocks locks;
  const IdLocks::Holder first(locks, {"a", "b"});
  const IdLocks::Holder second(locks, {"c", "d"});
  const IdLocks::Holder none(locks, {});
}

TEST(IdLocksTest, AnIdIsHeldOnce) {
  IdLocks locks;
  std::optional<IdLocks::Holder> first;
  first.emplace(locks, std::vector<absl::string_view>{"a", "b"});
  std::atomic<bool> released = false;
  std::thread waiter([&] {
    const IdLocks::Holder second(locks, {"b", "c"});
    EXPECT_TRUE(released);
  });
  released = true;
  first.reset();
  waiter.join();
}

// Threads that read, then write, one counter per id: lost steps would show that
// two held an id together, and opposite orders that they cannot wait in a ring.
TEST(IdLocksTest, HoldersOfAnIdTakeTurns) {
  IdLocks locks;
  int count_a = 0;
  int count_b = 0;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<absl::string_view> ids = {"a", "b"};
      if (t % 2 == 1) std::swap(ids[0], ids[1]);
      for (int i = 0; i < kSteps; ++i) {
        const IdLocks::Holder holder(locks, ids);
        ++count_a;
        ++count_b;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count_a, kThreads * kSteps);
  EXPECT_EQ(count_b, kThreads * kSteps);
}

}  // namespace
}  // namespace quern
