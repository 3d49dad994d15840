// Kills a writing process at random moments and looks at what is left: nothing
// acknowledged may lack, nothing may be there that was not written, and a call
// that was cut off has done all or nothing.

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/store/rocksdb_item_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int kRounds = 12;
constexpr int kThreads = 4;
constexpr int kSlots = 40;  // Ids of each thread.
constexpr int kMaxCallItems = 12;
constexpr int64_t kDimension = 16;
constexpr absl::string_view kChildFlag = "--write-until-killed";

// A thread's calls are numbered from 1; what each does follows from the number.
struct Call {
  bool is_delete = false;
  std::set<int> slots;
};

Call MakeCall(int thread, int number) {
  std::mt19937 random(thread * 1'000'003 + number);
  Call call;
  call.is_delete = random() % 4 == 0;
  const int items = 1 + static_cast<int>(random() % kMaxCallItems);
  for (int i = 0; i < items; ++i) {
    call.slots.insert(static_cast<int>(random() % kSlots));
  }
  return call;
}

std::string MakeId(int thread, int slot) {
  return absl::StrCat("thread", thread, "/", slot);
}

Item MakeItem(int thread, int slot, int number) {
  std::mt19937 random((thread * kSlots + slot) * 7919 + number);
  Item item{.id = MakeId(thread, slot),
            .payload = std::string(random() % 4000, '\0'),
            .embedding = std::vector<float>(kDimension),
            .update_time = absl::FromUnixSeconds(number)};
  for (char& byte : item.payload) byte = static_cast<char>(random());
  for (float& value : item.embedding) value = static_cast<float>(random());
  return item;
}

std::unique_ptr<RocksdbItemStore> Open(const std::string& path) {
  // Small buffers: flushes and compactions are among what is killed.
  return ValueOrDie(RocksdbItemStore::Open(
      {.path = path, .dimension = kDimension, .write_buffer_bytes = 64 << 10}));
}

// Sent through the pipe once a call has returned OK.
struct Acknowledgement {
  int thread;
  int number;
};

absl::Status Run(ItemStore& store, int thread, int number) {
  const Call call = MakeCall(thread, number);
  std::vector<std::string> ids;
  std::vector<Item> items;
  for (int slot : call.slots) {
    ids.push_back(MakeId(thread, slot));
    items.push_back(MakeItem(thread, slot, number));
  }
  return call.is_delete ? store.Delete(ids).status()
                        : store.Put(items).status();
}

// The child. `done` is the last call of each thread that the store holds.
int WriteUntilKilled(const std::string& path, const std::vector<int>& done) {
  const auto store = Open(path);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&store, &done, thread] {
      for (int number = done[thread] + 1;; ++number) {
        if (!Run(*store, thread, number).ok()) ::_exit(1);
        const Acknowledgement sent{thread, number};
        if (::write(STDOUT_FILENO, &sent, sizeof(sent)) != sizeof(sent)) {
          ::_exit(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 1;
}

// What each slot of a thread should hold: the number of the call that put it.
using Slots = std::map<int, int>;

void Apply(int thread, int number, Slots& slots) {
  const Call call = MakeCall(thread, number);
  for (int slot : call.slots) {
    if (call.is_delete) {
      slots.erase(slot);
    } else {
      slots[slot] = number;
    }
  }
}

class CrashTest : public testing::Test {
 protected:
  // Runs the child and kills it after `delay` from its first acknowledgement.
  void WriteAndKill(absl::Duration delay) {
    std::array<int, 2> ends;
    ASSERT_EQ(::pipe(ends.data()), 0);
    const pid_t child = Spawn(ends);
    ::close(ends[1]);
    Acknowledgement received;
    bool first = true;
    while (::read(ends[0], &received, sizeof(received)) == sizeof(received)) {
      EXPECT_EQ(received.number, acknowledged_[received.thread] + 1);
      acknowledged_[received.thread] = received.number;
      if (!first) continue;
      first = false;
      absl::SleepFor(delay);
      ::kill(child, SIGKILL);
    }
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
  }

  // Compares the store with the two states that are allowed for each thread.
  void CheckStore() {
    const auto store = Open(path_);
    std::map<std::string, Item> items;
    ASSERT_THAT(store->Scan("", {.payload = true, .embedding = true},
                            [&items](Item item) {
                              std::string id = item.id;
                              items.emplace(std::move(id), std::move(item));
                              return true;
                            }),
                IsOk());
    EXPECT_EQ(store->count(), static_cast<int64_t>(items.size()));
    size_t expected_items = 0;
    for (int thread = 0; thread < kThreads; ++thread) {
      while (done_[thread] < acknowledged_[thread]) {
        Apply(thread, ++done_[thread], slots_[thread]);
      }
      if (!Matches(items, thread, slots_[thread])) {
        // The call that was cut off may have been done, as a whole.
        Apply(thread, ++done_[thread], slots_[thread]);
        acknowledged_[thread] = done_[thread];
        EXPECT_TRUE(Matches(items, thread, slots_[thread]))
            << "thread " << thread << " after call " << done_[thread];
      }
      expected_items += slots_[thread].size();
    }
    EXPECT_EQ(items.size(), expected_items);
  }

  int64_t acknowledged_calls() const {
    int64_t calls = 0;
    for (int number : acknowledged_) calls += number;
    return calls;
  }

 private:
  pid_t Spawn(const std::array<int, 2>& ends) const {
    std::string program = "/proc/self/exe";
    std::string flag(kChildFlag);
    std::string path = path_;
    std::string done = absl::StrJoin(done_, ",");
    std::array<char*, 5> arguments = {program.data(), flag.data(), path.data(),
                                      done.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    pid_t child = -1;
    EXPECT_EQ(::posix_spawn(&child, program.c_str(), &actions, nullptr,
                            arguments.data(), environ),
              0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }

  static bool Matches(const std::map<std::string, Item>& items, int thread,
                      const Slots& slots) {
    for (int slot = 0; slot < kSlots; ++slot) {
      const auto item = items.find(MakeId(thread, slot));
      const auto number = slots.find(slot);
      if ((item != items.end()) != (number != slots.end())) return false;
      if (item == items.end()) continue;
      const Item expected = MakeItem(thread, slot, number->second);
      if (item->second.payload != expected.payload ||
          item->second.embedding != expected.embedding ||
          item->second.update_time != expected.update_time) {
        return false;
      }
    }
    return true;
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_.File("store");
  std::array<int, kThreads> acknowledged_{};
  std::array<int, kThreads> done_{};
  std::array<Slots, kThreads> slots_;
};

TEST_F(CrashTest, AcknowledgedItemsSurviveAKillAndNothingElseAppears) {
  std::mt19937 random(20260202);
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    WriteAndKill(absl::Microseconds(random() % 120'000));
    CheckStore();
    if (HasFailure()) return;
  }
  EXPECT_GE(acknowledged_calls(), kRounds);
  RecordProperty("acknowledged_calls", absl::StrCat(acknowledged_calls()));
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc == 4 && argv[1] == quern::kChildFlag) {
    std::vector<int> done;
    for (absl::string_view text : absl::StrSplit(argv[3], ',')) {
      done.push_back(0);
      if (!absl::SimpleAtoi(text, &done.back())) return 1;
    }
    return quern::WriteUntilKilled(argv[2], done);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
