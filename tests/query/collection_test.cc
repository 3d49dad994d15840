#include "engine/query/collection.h"

#include <atomic>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "google/protobuf/struct.pb.h"
#include "gtest/gtest.h"

#include "engine/base/file.h"
#include "engine/index/sharded_index.h"
#include "engine/query/catalog.h"
#include "engine/query/expiry_sweep.h"
#include "tests/query/fake_collection.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const RealClock kClock;

std::vector<std::string> SearchIds(const Collection& collection,
                                   std::vector<float> query) {
  RequestContext context(&kClock, "test");
  const auto lists = collection.index().Search(
      context,
      {.data = query.data(), .rows = 1, .columns = collection.dimension()},
      {.k = 10});
  EXPECT_TRUE(lists.ok()) << lists.status();
  std::vector<std::string> ids;
  for (const ScoredId& hit : lists->front()) ids.push_back(hit.id);
  return ids;
}

class CollectionTest : public ::testing::Test {
 protected:
  std::unique_ptr<Collection> Open() {
    auto collection =
        Collection::Open(directory_.path(), Record("c", 2), disk_.Factories());
    EXPECT_TRUE(collection.ok()) << collection.status();
    return *std::move(collection);
  }

  TemporaryDirectory directory_;
  FakeDisk disk_;
};

TEST_F(CollectionTest, WhatWasWrittenIsFoundAndSurvivesReopening) {
  auto collection = Open();
  ASSERT_TRUE(
      collection->Upsert({MakeItem("a", {1, 0}), MakeItem("b", {0, 1})}).ok());
  EXPECT_THAT(SearchIds(*collection, {1, 0}), ElementsAre("a", "b"));
  collection.reset();
  collection = Open();
  EXPECT_THAT(SearchIds(*collection, {0, 1}), ElementsAre("b", "a"));
}

TEST_F(CollectionTest, SaysWhichIdsAreNew) {
  auto collection = Open();
  ASSERT_TRUE(collection->Upsert({MakeItem("a", {1, 0})}).ok());
  const auto written = collection->Upsert(
      {MakeItem("b", {1, 0}), MakeItem("a", {0, 1}), MakeItem("b", {0, 1})});
  ASSERT_TRUE(written.ok()) << written.status();
  ASSERT_EQ(written->size(), 3);
  EXPECT_TRUE((*written)[0].created);
  EXPECT_FALSE((*written)[1].created);
  EXPECT_FALSE((*written)[2].created);
}

TEST_F(CollectionTest, OfEqualIdsTheLastWinsInStoreAndIndex) {
  auto collection = Open();
  ASSERT_TRUE(collection
                  ->Upsert({MakeItem("a", {1, 0}), MakeItem("b", {1, 1}),
                            MakeItem("a", {0, 1})})
                  .ok());
  EXPECT_THAT(SearchIds(*collection, {0, 1}), ElementsAre("a", "b"));
  const auto items = collection->store().Get({"a"}, {.embedding = true});
  ASSERT_TRUE(items.ok());
  EXPECT_THAT((*items)[0]->embedding, ElementsAre(0, 1));
}

TEST_F(CollectionTest, DeletedIdsAreNotFound) {
  auto collection = Open();
  ASSERT_TRUE(
      collection->Upsert({MakeItem("a", {1, 0}), MakeItem("b", {0, 1})}).ok());
  const auto deleted = collection->Delete({"a", "unknown"});
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(*deleted, 1);
  EXPECT_THAT(SearchIds(*collection, {1, 0}), ElementsAre("b"));
}

TEST_F(CollectionTest, VersionCountsVisibleChanges) {
  auto collection = Open();
  const int64_t before = collection->index_version();
  ASSERT_TRUE(collection->Upsert({MakeItem("a", {1, 0})}).ok());
  EXPECT_EQ(collection->index_version(), before + 1);
  ASSERT_TRUE(collection->Delete({"unknown"}).ok());
  EXPECT_EQ(collection->index_version(), before + 1);
  ASSERT_TRUE(collection->Delete({"a"}).ok());
  EXPECT_EQ(collection->index_version(), before + 2);
}

TEST_F(CollectionTest,
       AfterDropWritesAreRefusedAndTheFolderGoesWithTheLastUser) {
  auto collection = Open();
  ASSERT_TRUE(collection->Upsert({MakeItem("a", {1, 0})}).ok());
  collection->Drop();
  EXPECT_EQ(collection->Upsert({MakeItem("b", {1, 0})}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(SearchIds(*collection, {1, 0}), ElementsAre("a"));
  EXPECT_TRUE(std::filesystem::exists(directory_.path()));
  collection.reset();
  EXPECT_FALSE(std::filesystem::exists(directory_.path()));
}

class CountingVectorIndex final : public FakeVectorIndex {
 public:
  CountingVectorIndex(int64_t dimension, int* upserts)
      : FakeVectorIndex(dimension), upserts_(upserts) {}

  absl::Status Upsert(absl::Span<const std::string> ids, MatrixView vectors,
                      absl::Span<const FieldValues> fields) override {
    ++*upserts_;
    return FakeVectorIndex::Upsert(ids, vectors, fields);
  }

 private:
  int* const upserts_;
};

std::string Payload(const std::string& shelf, const std::string& note) {
  google::protobuf::Struct payload;
  (*payload.mutable_fields())["shelf"].set_string_value(shelf);
  (*payload.mutable_fields())["note"].set_string_value(note);
  return payload.SerializeAsString();
}

TEST_F(CollectionTest, AnUpdateThatNoFilterSeesLeavesTheIndexAlone) {
  int upserts = 0;
  CollectionFactories factories = disk_.Factories();
  factories.create_index =
      [&upserts](const v1::Collection& record, const std::string&,
                 ItemStore*) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
    return std::make_unique<CountingVectorIndex>(record.dimension(), &upserts);
  };
  v1::Collection record = Record("c", 2);
  v1::PayloadField& field = *record.add_payload_fields();
  field.set_path("shelf");
  field.set_type(v1::PayloadField::TYPE_STRING);
  const auto opened = Collection::Open(directory_.path(), record, factories);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Collection& collection = **opened;
  Item item = MakeItem("a", {1, 0});
  item.payload = Payload("one", "old");
  ASSERT_TRUE(collection.Upsert({item}).ok());
  const auto set = [&](const std::string& payload) {
    const auto updated = collection.Update("a", [&](Item& changed) {
      changed.payload = payload;
      return absl::OkStatus();
    });
    EXPECT_TRUE(updated.ok()) << updated.status();
  };
  upserts = 0;
  set(Payload("one", "new"));
  EXPECT_EQ(upserts, 0);
  set(Payload("two", "new"));
  EXPECT_EQ(upserts, 1);
}

// Counts writes, each of which takes a millisecond.
class SlowItemStore final : public ForwardingItemStore {
 public:
  SlowItemStore(std::shared_ptr<ItemStore> store, std::atomic<int>* puts)
      : ForwardingItemStore(std::move(store)), puts_(puts) {}

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override {
    ++*puts_;
    absl::SleepFor(absl::Milliseconds(1));
    return ForwardingItemStore::Put(items);
  }

 private:
  std::atomic<int>* const puts_;
};

class SlowCollectionTest : public CollectionTest {
 protected:
  std::unique_ptr<Collection> OpenSlow() {
    CollectionFactories factories = disk_.Factories();
    factories.open_store = [this](const std::string&,
                                  const v1::Collection& record)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return std::make_unique<SlowItemStore>(
          std::make_shared<FakeItemStore>(record.dimension()), &puts_);
    };
    auto collection =
        Collection::Open(directory_.path(), Record("c", 2), factories);
    EXPECT_TRUE(collection.ok()) << collection.status();
    return *std::move(collection);
  }

  std::atomic<int> puts_ = 0;
};

TEST_F(SlowCollectionTest, UpsertsThatWaitAreWrittenTogether) {
  const auto collection = OpenSlow();
  constexpr int kCallers = 4;
  constexpr int kRounds = 50;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        // One of them is always wrong, and so is no other one for it.
        const bool is_wrong = caller == 0;
        const std::string id = absl::StrCat(caller, "/", round);
        const auto written = collection->Upsert(
            {MakeItem(id, {1, 0}), MakeItem(is_wrong ? "" : id, {0, 1})});
        ASSERT_EQ(written.ok(), !is_wrong);
        if (is_wrong) continue;
        ASSERT_EQ(written->size(), 2);
        EXPECT_TRUE((*written)[0].created);
        EXPECT_FALSE((*written)[1].created);
        EXPECT_EQ((*written)[1].sequence, (*written)[0].sequence + 1);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(collection->index().size(), (kCallers - 1) * kRounds);
  EXPECT_EQ(collection->store().count(), (kCallers - 1) * kRounds);
}

TEST_F(SlowCollectionTest, ThoseThatWaitShareAWrite) {
  const auto collection = OpenSlow();
  std::atomic<int> done = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      // Who waits for a write of a millisecond and is never joined by another
      // in a thousand of them has none to share.
      for (int i = 0; i < 1000 && puts_ >= done; ++i) {
        EXPECT_TRUE(
            collection->Upsert({MakeItem(absl::StrCat(caller), {1, 0})}).ok());
        ++done;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_LT(puts_, done);
}

TEST_F(CollectionTest, DescribesItself) {
  auto collection = Open();
  ASSERT_TRUE(collection->Upsert({MakeItem("a", {1, 0})}).ok());
  const v1::Collection described = collection->Describe();
  EXPECT_EQ(described.name(), "c");
  EXPECT_EQ(described.status().state(), v1::CollectionStatus::STATE_READY);
  EXPECT_EQ(described.status().item_count(), 1);
}

TEST_F(CollectionTest, AnItemOfAnotherEtagStaysInStoreAndIndex) {
  auto collection = Open();
  const auto first = collection->Upsert({MakeItem("a", {1, 0})});
  ASSERT_TRUE(first.ok());
  Item stale = MakeItem("a", {0, 1});
  stale.if_sequence = (*first)[0].sequence + 1;
  const auto second = collection->Upsert({stale, MakeItem("b", {0.5F, 1})});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ((*second)[0].status.code(), absl::StatusCode::kAborted);
  EXPECT_TRUE((*second)[1].status.ok());
  EXPECT_THAT(SearchIds(*collection, {1, 0}), ElementsAre("a", "b"));
}

// A store that says why it takes no more writes.
class RefusingItemStore final : public ForwardingItemStore {
 public:
  using ForwardingItemStore::ForwardingItemStore;
  absl::Status write_status() const override {
    return absl::FailedPreconditionError("the disk broke");
  }
};

TEST_F(CollectionTest, OneThatTakesNoWritesSaysSo) {
  CollectionFactories factories = disk_.Factories();
  factories.open_store = [](const std::string&, const v1::Collection& record)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return std::make_unique<RefusingItemStore>(
        std::make_shared<FakeItemStore>(record.dimension()));
  };
  const auto collection =
      Collection::Open(directory_.path(), Record("c", 2), factories);
  ASSERT_TRUE(collection.ok());
  const v1::Collection described = (*collection)->Describe();
  EXPECT_EQ(described.status().state(), v1::CollectionStatus::STATE_READ_ONLY);
  EXPECT_EQ(described.status().message(), "the disk broke");
}

TEST_F(CollectionTest, WhatExpiredLeavesStoreAndIndex) {
  FakeClock clock(absl::FromUnixSeconds(100));
  CollectionFactories factories = disk_.Factories();
  factories.open_store = [&clock](const std::string&,
                                  const v1::Collection& record)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return std::make_unique<FakeItemStore>(record.dimension(), &clock);
  };
  const auto opened =
      Collection::Open(directory_.path(), Record("c", 2), factories);
  ASSERT_TRUE(opened.ok());
  Collection& collection = **opened;
  std::vector<Item> items = {MakeItem("stays", {1, 0})};
  for (int i = 0; i < 300; ++i) {
    items.push_back(MakeItem(absl::StrCat("goes", i), {0, 1}));
    items.back().expire_time = absl::FromUnixSeconds(200);
  }
  ASSERT_TRUE(collection.Upsert(items).ok());
  EXPECT_FALSE(collection.RemoveExpired().value());
  EXPECT_EQ(collection.index().size(), 301);
  EXPECT_FALSE(collection.HideExpired().value());
  clock.Advance(absl::Seconds(100));
  EXPECT_TRUE(collection.HideExpired().value()) << "one step is not enough";
  EXPECT_FALSE(collection.HideExpired().value());
  EXPECT_EQ(collection.index().size(), 1);
  EXPECT_TRUE(collection.RemoveExpired().value()) << "one step is not enough";
  EXPECT_FALSE(collection.RemoveExpired().value());
  EXPECT_EQ(collection.store().count(), 1);
}

// Only the sweep's thread moves here: the test waits for what it does.
TEST_F(CollectionTest, TheSweepRemovesWhatExpired) {
  FakeClock clock(absl::FromUnixSeconds(100));
  CollectionFactories factories = disk_.Factories();
  factories.open_store = [&clock](const std::string&,
                                  const v1::Collection& record)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return std::make_unique<FakeItemStore>(record.dimension(), &clock);
  };
  const auto catalog = Catalog::Open({.path = directory_.File("data"),
                                      .factories = factories,
                                      .clock = &clock});
  ASSERT_TRUE(catalog.ok());
  const auto collection = (*catalog)->Create(Record("c", 2));
  ASSERT_TRUE(collection.ok());
  const ExpirySweep sweep(catalog->get(), absl::Milliseconds(1));
  Item item = MakeItem("a", {1, 0});
  item.expire_time = absl::FromUnixSeconds(200);
  ASSERT_TRUE((*collection)->Upsert({item}).ok());
  clock.Advance(absl::Seconds(100));
  while ((*collection)->store().count() > 0) std::this_thread::yield();
  EXPECT_EQ((*collection)->index().size(), 0);
}

// With the real index and its files over a store in memory.
class IndexedCollectionTest : public ::testing::Test {
 protected:
  static constexpr int kItems = 600;

  IndexedCollectionTest() {
    record_ = Record("c", 2);
    v1::PayloadField& field = *record_.add_payload_fields();
    field.set_path("n");
    field.set_type(v1::PayloadField::TYPE_NUMBER);
  }

  std::unique_ptr<Collection> Open() {
    CollectionFactories factories = disk_.Factories();
    factories.create_index =
        [](const v1::Collection& record, const std::string& directory,
           ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      return ShardedIndex::Create({.dimension = record.dimension(),
                                   .shards = 2,
                                   .fields = FieldsOf(record),
                                   .directory = directory,
                                   .oldest_sequence = store->trimmed_sequence(),
                                   .newest_sequence = store->last_sequence(),
                                   .saved = [store](uint64_t sequence) {
                                     EXPECT_TRUE(
                                         store->TrimChanges(sequence).ok());
                                   }});
    };
    auto collection = Collection::Open(directory_.path(), record_, factories);
    EXPECT_TRUE(collection.ok()) << collection.status();
    return *std::move(collection);
  }

  static Item NumberedItem(int i) {
    google::protobuf::Struct payload;
    (*payload.mutable_fields())["n"].set_number_value(i);
    Item item =
        MakeItem(absl::StrCat("item", i), {1, static_cast<float>(i) / kItems});
    item.payload = payload.SerializeAsString();
    item.modality = v1::MODALITY_IMAGE;
    return item;
  }

  static void Fill(Collection& collection) {
    std::vector<Item> items;
    for (int i = 0; i < kItems; ++i) items.push_back(NumberedItem(i));
    ASSERT_TRUE(collection.Upsert(items).ok());
    const RequestContext context(&kClock, "test");
    ASSERT_TRUE(
        collection.mutable_index().Optimize(context, [](float) {}).ok());
  }

  std::vector<std::string> Matching(const Collection& collection,
                                    const std::string& filter) {
    RequestContext context(&kClock, "test");
    const std::vector<float> query = {1, 0};
    const auto lists = collection.index().Search(
        context, {.data = query.data(), .rows = 1, .columns = 2},
        {.k = kItems,
         .filter = *ParseFilter(filter, FieldsOf(collection.record()))});
    EXPECT_TRUE(lists.ok()) << lists.status();
    std::vector<std::string> ids;
    for (const ScoredId& hit : lists->front()) ids.push_back(hit.id);
    return ids;
  }

  v1::Collection record_;
  TemporaryDirectory directory_;
  FakeDisk disk_;
};

TEST_F(IndexedCollectionTest, CatchesUpWithWhatWasWrittenSinceItWasSaved) {
  auto collection = Open();
  Fill(*collection);
  ASSERT_TRUE(collection->Delete({"item3"}).ok());
  ASSERT_TRUE(collection->Upsert({NumberedItem(kItems)}).ok());
  Item changed = NumberedItem(5);
  changed.payload = NumberedItem(-5).payload;
  ASSERT_TRUE(collection->Upsert({changed}).ok());
  collection.reset();

  collection = Open();
  EXPECT_FALSE(collection->index().incomplete());
  EXPECT_EQ(collection->index().size(), kItems);
  EXPECT_THAT(Matching(*collection, "n < 5"),
              ElementsAre("item0", "item1", "item2", "item4", "item5"));
  EXPECT_THAT(Matching(*collection, "n >= 599"),
              ElementsAre("item599", "item600"));
}

TEST_F(IndexedCollectionTest, FilesThatAreMissingOrDamagedAreMadeAgain) {
  auto collection = Open();
  Fill(*collection);
  collection.reset();
  const std::string index = directory_.File("index");
  const std::vector<std::function<void()>> damages = {
      [&] { std::filesystem::remove_all(index); },
      [&] { std::filesystem::resize_file(index + "/manifest", 20); },
      [&] { std::filesystem::resize_file(index + "/segment-1", 200); }};
  const RequestContext context(&kClock, "test");
  for (const auto& damage : damages) {
    damage();
    collection = Open();
    while (collection->index().incomplete()) {
      // Searches go on meanwhile.
      EXPECT_FALSE(collection->Describe().status().shards().empty());
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(collection->index().size(), kItems);
    EXPECT_EQ(Matching(*collection, "n < 100").size(), 100u);
    ASSERT_TRUE(
        collection->mutable_index().Optimize(context, [](float) {}).ok());
    collection.reset();
    // As good as new, so that the next damage is met alone.
    std::filesystem::remove_all(index);
    collection = Open();
    ASSERT_TRUE(
        collection->mutable_index().Optimize(context, [](float) {}).ok());
    collection.reset();
  }
}

TEST_F(IndexedCollectionTest, AFlippedByteInAnyFileOfTheIndexIsMadeGood) {
  auto collection = Open();
  Fill(*collection);
  collection.reset();
  std::vector<std::string> all;
  for (int i = 0; i < kItems; ++i) all.push_back(absl::StrCat("item", i));
  std::vector<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(directory_.File("index"))) {
    files.push_back(entry.path().string());
  }
  ASSERT_EQ(files.size(), 4u);  // The manifest, the fields, and a segment each.
  std::mt19937 random(8);
  for (const std::string& file : files) {
    const std::string good = *ReadFile(file);
    for (int i = 0; i < 24; ++i) {
      // What it begins with, and any byte.
      const size_t at = i < 12 ? i : random() % good.size();
      SCOPED_TRACE(absl::StrCat("byte ", at, " of ", file));
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (i % 8)));
      ASSERT_TRUE(WriteFileAtomically(file, bad).ok());
      collection = Open();
      while (collection->index().incomplete()) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      EXPECT_THAT(Matching(*collection, "n >= 0"),
                  testing::UnorderedElementsAreArray(all));
      EXPECT_THAT(Matching(*collection, "n < 2 OR n > 598"),
                  ElementsAre("item0", "item1", "item599"));
      collection.reset();
    }
    ASSERT_TRUE(WriteFileAtomically(file, good).ok());
  }
}

TEST(CheckVectorTest, NamesWhatIsWrong) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> zero = {0, 0};
  EXPECT_TRUE(CheckVector({1, 2}, 2, Metric::kCosine).ok());
  EXPECT_THAT(std::string(CheckVector({1, 2, 3}, 2, Metric::kCosine).message()),
              HasSubstr("has 3 values; the collection's dimension is 2"));
  EXPECT_THAT(std::string(CheckVector({1, nan}, 2, Metric::kCosine).message()),
              HasSubstr("value 1 is nan"));
  EXPECT_THAT(
      std::string(CheckVector({3e30F, 0}, 2, Metric::kDotProduct).message()),
      HasSubstr("its norm is 3e+30"));
  EXPECT_EQ(CheckVector(zero, 2, Metric::kCosine).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(CheckVector(zero, 2, Metric::kDotProduct).ok());
}

}  // namespace
}  // namespace quern
