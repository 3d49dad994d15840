// Fails one call of the file system after another: the first, the second, until
// a run gets through without meeting it. Whatever fails says so, what was
// acknowledged is there when the store is opened again, and of what was not,
// each write has happened whole or not at all.

#include <filesystem>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/env.h"

#include "engine/base/clock.h"
#include "engine/store/rocksdb_item_store.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using Site = FaultyFileSystem::Site;

constexpr int64_t kDimension = 4;
constexpr int kPairs = 4;
constexpr size_t kPayloadBytes = 20'000;  // Two pairs fill a write buffer.
constexpr int kMaxCalls = 2000;

// RocksDB sleeps for a second after a failed flush; here it does not.
class SleeplessEnv final : public rocksdb::EnvWrapper {
 public:
  explicit SleeplessEnv(std::shared_ptr<rocksdb::FileSystem> files)
      : EnvWrapper(rocksdb::Env::Default()) {
    file_system_ = std::move(files);
  }
  void SleepForMicroseconds(int /*micros*/) override {}
};

struct Case {
  std::string name;
  Site site;
  FaultyFileSystem::Fault fault;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

std::string IdOf(int pair, int side) { return absl::StrCat(pair, "/", side); }

Item MakeItem(const std::string& id, absl::Time expire_time) {
  return {.id = id,
          .payload = std::string(kPayloadBytes, 'x'),
          .embedding = std::vector<float>(kDimension, 1),
          .expire_time = expire_time};
}

// What a pair of items may hold, both sides alike: nothing, the first payload,
// or the second.
enum State { kAbsent, kFirst, kSecond };

class IoErrorTest : public testing::TestWithParam<Case> {
 protected:
  IoErrorTest() {
    files_->skip_syncs();
    files_->set_failure_delay(absl::Milliseconds(10));
  }

  RocksdbItemStoreOptions Options(const std::string& path) {
    return {.path = path,
            .dimension = kDimension,
            .write_buffer_bytes = 64 << 10,
            .clock = &clock_,
            .env = env_.get()};
  }

  // After a write that should lead to `state`.
  void Note(const absl::Status& status, int pair, State state) {
    if (status.ok()) {
      allowed_[pair] = {state};
      return;
    }
    EXPECT_THAT(status.code(),
                testing::AnyOf(absl::StatusCode::kResourceExhausted,
                               absl::StatusCode::kFailedPrecondition,
                               absl::StatusCode::kDataLoss))
        << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("store at"));
    allowed_[pair].insert(state);
  }

  // Writes and reads what it can; false where the store could not be opened.
  bool Run(const std::string& path) {
    allowed_.assign(kPairs, {kAbsent});
    auto opened = RocksdbItemStore::Open(Options(path));
    if (!opened.ok()) {
      EXPECT_THAT(std::string(opened.status().message()),
                  testing::HasSubstr(path));
      return false;
    }
    RocksdbItemStore& store = **opened;
    const absl::Time far = clock_.Now() + absl::Hours(1);
    for (int pair = 0; pair < kPairs; ++pair) {
      std::vector<Item> items = {MakeItem(IdOf(pair, 0), far),
                                 MakeItem(IdOf(pair, 1), far)};
      Note(store.Put(items).status(), pair, kFirst);
      if (pair % 3 == 1) {
        for (Item& item : items) item.payload[0] = 'y';
        Note(store.Put(items).status(), pair, kSecond);
      }
      if (pair % 3 == 2) {
        Note(store.Delete({IdOf(pair - 2, 0), IdOf(pair - 2, 1)}).status(),
             pair - 2, kAbsent);
      }
      (void)store.TrimChanges(store.last_sequence());
      (void)store.RemoveExpired(10);
      // Reads go on, whatever befell the writes.
      EXPECT_THAT(store.Get({IdOf(0, 0)}, {}), IsOk());
    }
    return true;
  }

  void CheckAfter(const std::string& path) {
    const auto store = ValueOrDie(RocksdbItemStore::Open(Options(path)));
    int64_t items = 0;
    for (int pair = 0; pair < kPairs; ++pair) {
      std::set<State> found;
      for (int side : {0, 1}) {
        const auto item = ValueOrDie(store->Get(
            {IdOf(pair, side)}, {.payload = true, .embedding = true}))[0];
        found.insert(!item.has_value()         ? kAbsent
                     : item->payload[0] == 'x' ? kFirst
                                               : kSecond);
        items += item.has_value() ? 1 : 0;
      }
      ASSERT_EQ(found.size(), 1u) << "half of pair " << pair;
      EXPECT_TRUE(allowed_[pair].contains(*found.begin()))
          << "pair " << pair << " is " << *found.begin();
    }
    EXPECT_EQ(store->count(), items);
    EXPECT_THAT(store->Put({MakeItem("after", absl::InfiniteFuture())}),
                IsOk());
    EXPECT_THAT(store->write_status(), IsOk());
  }

  TemporaryDirectory directory_;
  FakeClock clock_{absl::FromUnixSeconds(1'000'000)};
  const std::shared_ptr<FaultyFileSystem> files_ =
      std::make_shared<FaultyFileSystem>();
  const std::unique_ptr<rocksdb::Env> env_ =
      std::make_unique<SleeplessEnv>(files_);
  std::vector<std::set<State>> allowed_;  // By pair.
};

TEST_P(IoErrorTest, NothingAcknowledgedIsLostWhicheverCallFails) {
  int met = 0;
  for (int nth = 1; nth < kMaxCalls; ++nth) {
    SCOPED_TRACE(absl::StrCat("call ", nth));
    const std::string path = directory_.File(absl::StrCat(nth));
    files_->FailCall(GetParam().site, nth, GetParam().fault);
    Run(path);
    const bool got_through = files_->fault_is_waiting();
    files_->FailCall(GetParam().site, 0, FaultyFileSystem::kNone);
    CheckAfter(path);
    if (HasFailure() || got_through) break;
    ++met;
    std::filesystem::remove_all(path);
  }
  EXPECT_GT(met, 0);
  RecordProperty("calls_failed", met);
}

INSTANTIATE_TEST_SUITE_P(
    Sites, IoErrorTest,
    testing::Values(
        Case{"CreateBroken", Site::kCreate, FaultyFileSystem::kBroken},
        Case{"CreateFull", Site::kCreate, FaultyFileSystem::kDiskFull},
        Case{"AppendBroken", Site::kAppend, FaultyFileSystem::kBroken},
        Case{"AppendFull", Site::kAppend, FaultyFileSystem::kDiskFull},
        Case{"ShortAppend", Site::kShortAppend, FaultyFileSystem::kBroken},
        Case{"SyncBroken", Site::kSync, FaultyFileSystem::kBroken},
        Case{"SyncFull", Site::kSync, FaultyFileSystem::kDiskFull},
        Case{"RenameBroken", Site::kRename, FaultyFileSystem::kBroken}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quern
