#include "engine/query/replica.h"

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/query/snapshots.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/snapshot/snapshot_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/unprivileged.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A server that makes snapshots, and a replica of it that looks only when it is
// told to.
class ReplicaTest : public ::testing::Test {
 protected:
  ReplicaTest()
      : catalog_(ValueOrDie(Catalog::Open({.path = directory_.File("data"),
                                           .factories = RocksdbFactories(),
                                           .clock = &clock_}))),
        snapshots_(
            ValueOrDie(Snapshots::Open({.path = path_, .clock = &clock_},
                                       RocksdbFactories(), catalog_.get()))),
        copies_(ValueOrDie(Catalog::Open({.path = "/nowhere",
                                          .factories = RocksdbFactories(),
                                          .clock = &clock_,
                                          .replica_of = path_}))) {}

  void Start() {
    replica_ = ValueOrDie(Replica::Start(
        {.path = path_,
         .factories = RocksdbFactories(),
         .clock = &clock_,
         .interval = absl::Hours(1),
         .on_open =
             [this](const std::string& collection, const std::string& snapshot,
                    const absl::Status& status) {
               opened_.push_back(absl::StrCat(collection, "/", snapshot, " ",
                                              status.ok() ? "ok" : "failed"));
             }},
        copies_.get()));
  }

  // Adds items up to `count` and makes a snapshot of them.
  void Snapshot(const std::string& collection, const std::string& name,
                int count) {
    auto source = catalog_->Get(collection);
    if (!source.ok()) source = catalog_->Create(Record(collection, 2));
    for (int i = static_cast<int>((*source)->store().count()); i < count; ++i) {
      ASSERT_THAT((*source)->Upsert({MakeItem(absl::StrCat(i), {1, 2})}),
                  IsOk());
    }
    clock_.Advance(absl::Seconds(1));
    ASSERT_THAT(snapshots_->Create(context_, collection, name), IsOk());
  }

  int64_t CountServed(const std::string& collection) const {
    return ValueOrDie(copies_->Describe(collection)).status().item_count();
  }

  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  RequestContext context_{&clock_, "test"};
  TemporaryDirectory directory_;
  const std::string path_ = directory_.File("data/snapshots");
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<Catalog> copies_;
  std::vector<std::string> opened_;
  std::unique_ptr<Replica> replica_;
};

TEST_F(ReplicaTest, ServesTheNewestOfEachCollectionAndFollows) {
  Snapshot("a", "one", 1);
  Snapshot("a", "two", 2);
  Snapshot("b", "one", 3);
  Start();
  EXPECT_EQ(CountServed("a"), 2);
  EXPECT_EQ(CountServed("b"), 3);
  Snapshot("a", "three", 4);
  Snapshot("c", "one", 1);
  EXPECT_EQ(CountServed("a"), 2);
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 4);
  EXPECT_EQ(CountServed("c"), 1);
  EXPECT_THAT(opened_, testing::ElementsAre("a/two ok", "b/one ok",
                                            "a/three ok", "c/one ok"));
}

TEST_F(ReplicaTest, WhatExpiresTakesNoPlaceAmongTheHits) {
  const auto source = ValueOrDie(catalog_->Create(Record("a", 2)));
  std::vector<Item> items = {MakeItem("live", {0, 1})};
  for (int i = 0; i < 300; ++i) {
    items.push_back(MakeItem(absl::StrCat("gone", i), {1, 0}));
    items.back().expire_time = absl::Now() - absl::Hours(1);
  }
  ASSERT_THAT(source->Upsert(items), IsOk());
  ASSERT_THAT(snapshots_->Create(context_, "a", "one"), IsOk());
  Start();
  const auto copy = ValueOrDie(copies_->Get("a"));
  ASSERT_FALSE(copy->store().write_status().ok());
  const std::vector<float> query = {1, 0};
  const auto lists = ValueOrDie(copy->index().Search(
      context_, {.data = query.data(), .rows = 1, .columns = 2}, {.k = 10}));
  ASSERT_EQ(lists.front().size(), 1u);
  EXPECT_EQ(lists.front().front().id, "live");
}

TEST_F(ReplicaTest, StartsBeforeTheFirstSnapshot) {
  Start();
  EXPECT_TRUE(copies_->List("", 10).empty());
  Snapshot("a", "one", 1);
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 1);
}

TEST_F(ReplicaTest, NamesItsModeWhereItRefusesWrites) {
  Snapshot("a", "one", 1);
  Start();
  const auto refused = StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("storage.replica_of is " + path_));
  const auto a = ValueOrDie(copies_->Get("a"));
  EXPECT_THAT(a->Upsert({MakeItem("x", {1, 2})}), refused);
  EXPECT_THAT(a->Delete({"0"}), refused);
  EXPECT_THAT(copies_->Create(Record("new", 2)), refused);
  EXPECT_THAT(copies_->Delete("a"), refused);
  const auto described = ValueOrDie(copies_->Describe("a"));
  EXPECT_EQ(described.status().state(), v1::CollectionStatus::STATE_READ_ONLY);
  EXPECT_THAT(described.status().message(), HasSubstr("\"one\""));
  EXPECT_EQ(CountServed("a"), 1);
}

TEST_F(ReplicaTest, WhoeverHoldsTheOldOneGoesOnWithIt) {
  Snapshot("a", "one", 1);
  Start();
  const auto old = ValueOrDie(copies_->Get("a"));
  Snapshot("a", "two", 2);
  replica_->Follow();
  ASSERT_THAT(snapshots_->Delete("a", "one"), IsOk());
  // Its files are gone by name, not for those who have them open.
  EXPECT_TRUE(ValueOrDie(old->store().Get({"0"}, {}))[0].has_value());
  EXPECT_EQ(CountServed("a"), 2);
}

TEST_F(ReplicaTest, ADamagedSnapshotChangesNothingAndIsTriedAgain) {
  Snapshot("a", "one", 1);
  Start();
  Snapshot("a", "two", 2);
  const std::string file = path_ + "/a/two/collection.json";
  const std::string whole = ValueOrDie(ReadFile(file));
  fs::remove(file);
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 1);
  // As when a copy of the folder is complete at last.
  WriteFile(file, whole);
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 1) << "not before its time";
  clock_.Advance(absl::Hours(1));
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 2);
  EXPECT_THAT(opened_,
              testing::ElementsAre("a/one ok", "a/two failed", "a/two ok"));
}

TEST_F(ReplicaTest, StartsWithAnOlderOneWhereTheNewestIsDamaged) {
  Snapshot("a", "one", 1);
  Snapshot("a", "two", 2);
  fs::remove(path_ + "/a/two/items/CURRENT");
  Start();
  EXPECT_EQ(CountServed("a"), 1);
}

TEST_F(ReplicaTest, TellsOnceOfASnapshotWithoutAReadableManifest) {
  Snapshot("a", "one", 1);
  Snapshot("a", "two", 2);
  const std::string manifest = path_ + "/a/two/snapshot.json";
  const std::string whole = ValueOrDie(ReadFile(manifest));
  WriteFile(manifest, "{");
  Start();
  EXPECT_EQ(CountServed("a"), 1);
  replica_->Follow();
  EXPECT_THAT(opened_, testing::ElementsAre("a/two failed", "a/one ok"));
  WriteFile(manifest, whole);
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 2);
  WriteFile(path_ + "/a/three/note", "");
  replica_->Follow();
  EXPECT_THAT(opened_, testing::ElementsAre("a/two failed", "a/one ok",
                                            "a/two ok", "a/three failed"));
}

TEST_F(ReplicaTest, GoesBackWhenTheNewestIsDeletedAndKeepsTheLast) {
  Snapshot("a", "one", 1);
  Snapshot("a", "two", 2);
  Start();
  ASSERT_THAT(snapshots_->Delete("a", "two"), IsOk());
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 1);
  ASSERT_THAT(snapshots_->Delete("a", "one"), IsOk());
  replica_->Follow();
  EXPECT_EQ(CountServed("a"), 1);
}

// With the time of their last change.
std::map<std::string, fs::file_time_type> FilesBelow(const std::string& path) {
  std::map<std::string, fs::file_time_type> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    files[entry.path().string()] = fs::last_write_time(entry.path());
  }
  return files;
}

TEST_F(ReplicaTest, ReadsWhatItMayNotWriteAndChangesNothing) {
  Snapshot("a", "one", 1);
  // Of an index that was never saved a copy may lack the folder.
  ASSERT_TRUE(fs::remove(path_ + "/a/one/index"));
  const RequestContext context(&clock_, "test");
  const auto b = ValueOrDie(catalog_->Create(Record("b", 2)));
  ASSERT_THAT(b->Upsert({MakeItem("0", {1, 2}), MakeItem("1", {2, 1})}),
              IsOk());
  ASSERT_THAT(b->mutable_index().Optimize(context, [](float) {}), IsOk());
  Snapshot("b", "one", 3);
  ASSERT_TRUE(fs::exists(path_ + "/b/one/index/manifest"));
  fs::permissions(directory_.path(), fs::perms(0755));
  const auto before = FilesBelow(path_);
  {
    const Unprivileged unprivileged;
    if (!unprivileged.ok()) GTEST_SKIP() << "root cannot give up its rights";
    Start();
    EXPECT_THAT(opened_, testing::ElementsAre("a/one ok", "b/one ok"));
    EXPECT_EQ(CountServed("a"), 1);
    EXPECT_EQ(CountServed("b"), 3);
    EXPECT_THAT(ValueOrDie(copies_->Get("b"))
                    ->mutable_index()
                    .Optimize(context, [](float) {}),
                StatusIs(absl::StatusCode::kFailedPrecondition));
  }
  EXPECT_EQ(FilesBelow(path_), before);
}

// Root may write to any folder, and is kept from it all the same.
TEST_F(ReplicaTest, ChangesNothingThatItMayWrite) {
  Snapshot("a", "one", 1);
  ASSERT_TRUE(fs::remove(path_ + "/a/one/index"));
  Snapshot("b", "one", 1);
  const auto before = FilesBelow(path_);
  Start();
  EXPECT_THAT(opened_, testing::ElementsAre("a/one ok", "b/one ok"));
  EXPECT_EQ(FilesBelow(path_), before);
}

TEST_F(ReplicaTest, AFolderThatIsNotThere) {
  EXPECT_THAT(
      Replica::Start({.path = "/nowhere/at/all",
                      .factories = RocksdbFactories(),
                      .clock = &clock_},
                     copies_.get())
          .status(),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("storage.replica_of")));
}

// While the replica follows, every search finds a collection, and never fewer
// items than one before it found.
TEST_F(ReplicaTest, NoSearchFailsWhileItFollows) {
  Snapshot("a", "s0", 1);
  Start();
  std::atomic<bool> stop = false;
  std::atomic<int64_t> searches = 0;
  std::vector<std::thread> searchers;
  for (int t = 0; t < 2; ++t) {
    searchers.emplace_back([&] {
      const std::vector<float> query = {1, 2};
      size_t most = 1;
      while (!stop) {
        const auto collection = copies_->Get("a");
        ASSERT_THAT(collection, IsOk());
        RequestContext context(&clock_, "search");
        const auto found =
            (*collection)
                ->index()
                .Search(context,
                        {.data = query.data(), .rows = 1, .columns = 2},
                        {.k = 100});
        ASSERT_THAT(found, IsOk());
        ASSERT_GE(found->front().size(), most);
        most = found->front().size();
        const auto items =
            (*collection)->store().Get({found->front().back().id}, {});
        ASSERT_THAT(items, IsOk());
        ASSERT_TRUE(items->front().has_value());
        ++searches;
      }
    });
  }
  for (int i = 1; i <= 8; ++i) {
    Snapshot("a", absl::StrCat("s", i), 1 + i);
    replica_->Follow();
    ASSERT_THAT(snapshots_->Delete("a", absl::StrCat("s", i - 1)), IsOk());
    const int64_t before = searches;
    while (searches < before + 10) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& searcher : searchers) searcher.join();
  EXPECT_EQ(CountServed("a"), 9);
}

}  // namespace
}  // namespace quern
