// Everything that a collection can be asked for, at once: run it under
// ThreadSanitizer. At the end it must hold what each writer wrote last, and no
// search may have seen anything else.

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/base/thread_pool.h"
#include "engine/index/sharded_index.h"
#include "engine/query/catalog.h"
#include "engine/query/snapshots.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int kDimension = 8;
constexpr int kWriters = 2;
constexpr int kIdsPerWriter = 40;
constexpr int kRounds = 60;  // Of each writer.
constexpr int kSnapshots = 5;

std::string IdOf(int writer, int number) {
  return absl::StrCat(writer, "/", number);
}

// Of one writer; no two items are alike.
Item ItemOf(int writer, int number, int round) {
  std::vector<float> vector(kDimension, 0.1F);
  vector[number % kDimension] = 1.0F + static_cast<float>(round);
  vector[kDimension - 1] += static_cast<float>(writer * 50 + number);
  Item item = MakeItem(IdOf(writer, number), vector);
  item.payload = "";
  return item;
}

// Whether a writer's item is there after a round: some are deleted in it.
bool LivesAfter(int number, int round) { return (number + round) % 5 != 0; }

class ConcurrencyTest : public testing::Test {
 protected:
  CollectionFactories Factories() {
    CollectionFactories factories = RocksdbFactories();
    factories.create_index =
        [this](
            const v1::Collection& record, const std::string& directory,
            ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      return ShardedIndex::Create({.dimension = record.dimension(),
                                   .shards = 2,
                                   .directory = directory,
                                   .oldest_sequence = store->trimmed_sequence(),
                                   .newest_sequence = store->last_sequence(),
                                   .saved =
                                       [store](uint64_t sequence) {
                                         (void)store->TrimChanges(sequence);
                                       },
                                   .background = background_,
                                   .seal_rows = 50});
    };
    return factories;
  }

  void Write(Collection& collection, int writer) {
    for (int round = 1; round <= kRounds; ++round) {
      std::vector<Item> items;
      std::vector<std::string> deleted;
      for (int number = 0; number < kIdsPerWriter; ++number) {
        if (LivesAfter(number, round)) {
          items.push_back(ItemOf(writer, number, round));
        } else {
          deleted.push_back(IdOf(writer, number));
        }
      }
      ASSERT_THAT(collection.Upsert(items), IsOk());
      ASSERT_THAT(collection.Delete(deleted), IsOk());
    }
  }

  void Search(const Collection& collection) {
    const RequestContext context(&clock_, "search");
    const std::vector<float> query(kDimension, 1);
    while (writing_ > 0) {
      const auto hits = ValueOrDie(collection.index().Search(
          context, {.data = query.data(), .rows = 1, .columns = kDimension},
          {.k = 1000}));
      std::set<std::string> ids;
      for (const ScoredId& hit : hits[0]) ids.insert(hit.id);
      ASSERT_EQ(ids.size(), hits[0].size()) << "an id came twice";
      ASSERT_LE(ids.size(), size_t{kWriters * kIdsPerWriter});
      (void)collection.Describe();
    }
  }

  void Optimize(Collection& collection) {
    const RequestContext context(&clock_, "optimize");
    while (writing_ > 0) {
      ASSERT_THAT(collection.mutable_index().Optimize(context, [](float) {}),
                  IsOk());
    }
  }

  void MakeSnapshots(Snapshots& snapshots) {
    const RequestContext context(&clock_, "snapshot");
    for (int i = 0; i < kSnapshots; ++i) {
      ASSERT_THAT(snapshots.Create(context, "c", absl::StrCat("s", i)), IsOk());
    }
  }

  void ExpectLastRound(const Collection& collection) {
    std::map<std::string, Item> found;
    ASSERT_THAT(collection.store().Scan("", {.embedding = true},
                                        [&found](Item item) {
                                          std::string id = item.id;
                                          found.emplace(id, std::move(item));
                                          return true;
                                        }),
                IsOk());
    size_t expected = 0;
    for (int writer = 0; writer < kWriters; ++writer) {
      for (int number = 0; number < kIdsPerWriter; ++number) {
        if (!LivesAfter(number, kRounds)) continue;
        ++expected;
        const auto item = found.find(IdOf(writer, number));
        ASSERT_NE(item, found.end()) << IdOf(writer, number);
        EXPECT_EQ(item->second.embedding,
                  ItemOf(writer, number, kRounds).embedding);
      }
    }
    EXPECT_EQ(found.size(), expected);
    EXPECT_EQ(collection.index().size(), static_cast<int64_t>(expected));
  }

  const RealClock clock_;
  TemporaryDirectory directory_;
  const std::shared_ptr<ThreadPool> background_ = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 1});
  std::atomic<int> writing_ = kWriters;
};

TEST_F(ConcurrencyTest, WritesSearchesSealsAndSnapshotsAtOnce) {
  const auto catalog =
      ValueOrDie(Catalog::Open({.path = directory_.File("data"),
                                .factories = Factories(),
                                .clock = &clock_}));
  const auto snapshots = ValueOrDie(Snapshots::Open(
      {.path = directory_.File("data/snapshots"), .clock = &clock_},
      Factories(), catalog.get()));
  const auto collection = ValueOrDie(catalog->Create(Record("c", kDimension)));

  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      Write(*collection, writer);
      --writing_;
    });
  }
  threads.emplace_back([&] { Search(*collection); });
  threads.emplace_back([&] { Optimize(*collection); });
  threads.emplace_back([&] { MakeSnapshots(*snapshots); });
  for (std::thread& thread : threads) thread.join();

  ExpectLastRound(*collection);
  const RequestContext context(&clock_, "restore");
  for (int i = 0; i < kSnapshots; ++i) {
    // One writer's rounds are two writes each, so that a snapshot may have
    // items of the last round and others of the one before.
    const auto restored = snapshots->Restore(context, "c", absl::StrCat("s", i),
                                             absl::StrCat("copy", i));
    ASSERT_THAT(restored, IsOk());
    EXPECT_EQ(
        restored->status().item_count(),
        ValueOrDie(catalog->Get(absl::StrCat("copy", i)))->store().count());
  }
}

}  // namespace
}  // namespace quern
