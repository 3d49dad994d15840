// A disk that is full when a write's log is to be synced: the write fails, and
// is in the log all the same. Once there is room the store reads it back, and
// the index must not miss it.

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/env.h"

#include "engine/query/collection.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;

constexpr int kDimension = 2;

class FailedSyncTest : public testing::Test {
 protected:
  std::unique_ptr<Collection> Open() {
    CollectionFactories factories = RocksdbFactories();
    factories.open_store = [this](const std::string& path,
                                  const v1::Collection& record)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return RocksdbItemStore::Open({.path = path,
                                     .dimension = record.dimension(),
                                     .clock = &clock_,
                                     .env = env_.get()});
    };
    return ValueOrDie(Collection::Open(directory_.path(),
                                       Record("c", kDimension), factories));
  }

  void FailNextSync() {
    files_->FailCall(FaultyFileSystem::Site::kSync, 1,
                     FaultyFileSystem::kDiskFull);
  }

  std::vector<std::string> Stored(const Collection& collection) {
    std::vector<std::string> ids;
    EXPECT_THAT(collection.store().Scan("", {},
                                        [&ids](const Item& item) {
                                          ids.push_back(item.id);
                                          return true;
                                        }),
                IsOk());
    return ids;
  }

  // Those of equal scores come in byte order of their ids.
  std::vector<std::string> Found(const Collection& collection) {
    const RequestContext context(&clock_, "test");
    const std::vector<float> query = {1, 0};
    const auto lists = ValueOrDie(collection.index().Search(
        context, {.data = query.data(), .rows = 1, .columns = kDimension},
        {.k = 100}));
    std::vector<std::string> ids;
    for (const ScoredId& hit : lists[0]) ids.push_back(hit.id);
    return ids;
  }

  FakeClock clock_{absl::FromUnixSeconds(100)};
  const std::shared_ptr<FaultyFileSystem> files_ =
      std::make_shared<FaultyFileSystem>();
  const std::unique_ptr<rocksdb::Env> env_ = rocksdb::NewCompositeEnv(files_);
  TemporaryDirectory directory_;
};

TEST_F(FailedSyncTest, TheNextWriteTellsTheIndexOfAnUpsert) {
  auto collection = Open();
  ASSERT_THAT(collection->Upsert({MakeItem("a", {1, 0})}), IsOk());
  FailNextSync();
  EXPECT_THAT(collection->Upsert({MakeItem("b", {1, 0})}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  const int64_t version = collection->index_version();
  ASSERT_THAT(collection->Upsert({MakeItem("c", {1, 0})}), IsOk());
  EXPECT_THAT(Stored(*collection), ElementsAre("a", "b", "c"));
  EXPECT_THAT(Found(*collection), ElementsAre("a", "b", "c"));
  EXPECT_GT(collection->index_version(), version);
  EXPECT_EQ(collection->index().applied_sequence(),
            collection->store().last_sequence());
  collection.reset();
  collection = Open();
  EXPECT_THAT(Found(*collection), ElementsAre("a", "b", "c"));
}

TEST_F(FailedSyncTest, TheNextWriteTellsTheIndexOfADelete) {
  auto collection = Open();
  ASSERT_THAT(
      collection->Upsert({MakeItem("a", {1, 0}), MakeItem("b", {1, 0})}),
      IsOk());
  FailNextSync();
  EXPECT_THAT(collection->Delete({"a"}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(collection->Update(
                  "none", [](Item& /*item*/) { return absl::OkStatus(); }),
              StatusIs(absl::StatusCode::kNotFound));
  ASSERT_THAT(collection->Upsert({MakeItem("c", {1, 0})}), IsOk());
  EXPECT_THAT(Stored(*collection), ElementsAre("b", "c"));
  EXPECT_THAT(Found(*collection), ElementsAre("b", "c"));
  EXPECT_EQ(collection->index().size(), 2);
}

// Without a write the sweep of expired items does it.
TEST_F(FailedSyncTest, TheSweepTellsTheIndex) {
  auto collection = Open();
  ASSERT_THAT(collection->Upsert({MakeItem("a", {1, 0})}), IsOk());
  FailNextSync();
  EXPECT_THAT(collection->Upsert({MakeItem("b", {1, 0})}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_FALSE(ValueOrDie(collection->RemoveExpired()));
  EXPECT_THAT(Stored(*collection), ElementsAre("a", "b"));
  EXPECT_THAT(Found(*collection), ElementsAre("a", "b"));
}

}  // namespace
}  // namespace quern
