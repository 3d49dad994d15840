// The index of a collection's parts beside its store: whatever was written, and
// after every start, it finds what the store's items say.

#include "engine/query/part_sync.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "google/protobuf/struct.pb.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/part_windows.h"
#include "engine/query/collection.h"
#include "tests/query/fake_collection.h"
#include "tests/query/unlisted_item_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kDimension = 8;

std::vector<float> Axis(int axis) {
  std::vector<float> vector(kDimension);
  vector[axis] = 1;
  return vector;
}

std::string Payload(double n) {
  google::protobuf::Struct payload;
  (*payload.mutable_fields())["n"].set_number_value(n);
  return payload.SerializeAsString();
}

// One cell, or frame, along each of the axes.
Item ItemOf(const std::string& id, v1::Modality modality,
            const std::vector<int>& axes, double n = 0) {
  std::vector<float> values;
  std::vector<float> mean(kDimension);
  for (const int axis : axes) {
    const std::vector<float> cell = Axis(axis);
    values.insert(values.end(), cell.begin(), cell.end());
    mean[axis] += 1;
  }
  PartFeatures parts;
  const auto count = static_cast<int64_t>(axes.size());
  if (modality == v1::MODALITY_VIDEO) {
    parts.shape.frames = count;
    for (int64_t i = 0; i < count; ++i) {
      parts.times.push_back(absl::Seconds(i));
      parts.samples.push_back(1);
    }
  } else {
    parts.shape.grid_height = 1;
    parts.shape.grid_width = count;
  }
  parts.features = QuantizeUnitRows(
      {.data = values.data(), .rows = count, .columns = kDimension});
  Item item = MakeItem(id, mean);
  item.payload = Payload(n);
  item.modality = modality;
  if (modality != v1::MODALITY_TEXT) item.parts = EncodeParts(parts);
  return item;
}

Item Picture(const std::string& id, const std::vector<int>& axes,
             double n = 0) {
  return ItemOf(id, v1::MODALITY_IMAGE, axes, n);
}

v1::Collection SearchableRecord() {
  v1::Collection record = Record("c", kDimension);
  record.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
  record.mutable_parts()->set_searchable(true);
  v1::PayloadField& field = *record.add_payload_fields();
  field.set_path("n");
  field.set_type(v1::PayloadField::TYPE_NUMBER);
  return record;
}

class PartSyncTest : public testing::Test {
 protected:
  std::unique_ptr<Collection> Open() {
    CollectionFactories factories = disk_.Factories();
    factories.crew = crew_;
    factories.open_store = [this](const std::string& path,
                                  const v1::Collection& record)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      std::shared_ptr<ItemStore>& store = stores_[path];
      if (store == nullptr) {
        store = std::make_shared<FakeItemStore>(record.dimension(), &clock_);
      }
      if (wrap_ != nullptr) return wrap_(store);
      return std::make_unique<ForwardingItemStore>(store);
    };
    return ValueOrDie(
        Collection::Open(directory_.path(), SearchableRecord(), factories));
  }

  std::vector<ScoredId> Search(const Collection& collection, int axis,
                               const std::string& filter = "",
                               int32_t modality = v1::MODALITY_IMAGE) {
    const RequestContext context(&clock_, "test");
    PartIndexStats stats;
    return ValueOrDie(collection.part_index()->Search(
        context, Axis(axis),
        {.k = 10'000,
         .filter = ValueOrDie(ParseFilter(filter, collection.index_fields())),
         .modalities = absl::MakeConstSpan(&modality, 1)},
        &stats));
  }

  std::vector<std::string> Ids(const Collection& collection, int axis,
                               const std::string& filter = "",
                               int32_t modality = v1::MODALITY_IMAGE) {
    std::vector<std::string> ids;
    for (const ScoredId& found : Search(collection, axis, filter, modality)) {
      if (found.score > 0.9) ids.push_back(found.id);
    }
    return ids;
  }

  // Every item that the store has, by the best of its rows.
  void ExpectInStep(const Collection& collection) {
    for (const std::string filter : {"", "n >= 5"}) {
      for (const int32_t modality : {v1::MODALITY_IMAGE, v1::MODALITY_VIDEO}) {
        for (int axis = 0; axis < kDimension; ++axis) {
          std::map<std::string, float> expected;
          const auto parsed =
              ValueOrDie(ParseFilter(filter, collection.index_fields()));
          const RequestContext context(&clock_, "test");
          ASSERT_THAT(
              collection.Scan(context, "", {.parts = true}, parsed.get(),
                              [&](const Item& item) {
                                if (item.modality != modality) return true;
                                const auto rows = SearchRows(item.parts);
                                if (!rows.ok()) return true;
                                float& best = expected[item.id] = -2;
                                for (int64_t i = 0; i < rows->rows(); ++i) {
                                  best = std::max(best, rows->row(i)[axis]);
                                }
                                return true;
                              }),
              IsOk());
          const auto found = Search(collection, axis, filter, modality);
          ASSERT_EQ(found.size(), expected.size()) << filter << " " << modality;
          for (const ScoredId& item : found) {
            ASSERT_TRUE(expected.contains(item.id)) << item.id;
            EXPECT_NEAR(item.score, expected[item.id], 0.01) << item.id;
          }
        }
      }
    }
  }

  FakeClock clock_{absl::FromUnixSeconds(100)};
  TemporaryDirectory directory_;
  FakeDisk disk_;
  const std::shared_ptr<WorkCrew> crew_ =
      std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 1});
  std::map<std::string, std::shared_ptr<ItemStore>> stores_;
  std::function<std::unique_ptr<ItemStore>(std::shared_ptr<ItemStore>)> wrap_;
};

TEST_F(PartSyncTest, FollowsEveryKindOfWrite) {
  const auto collection = Open();
  Item expiring = Picture("expiring", {6});
  expiring.expire_time = absl::FromUnixSeconds(200);
  ASSERT_THAT(
      collection->Upsert({Picture("a", {0, 1}, 1), Picture("b", {1, 2}, 6),
                          ItemOf("video", v1::MODALITY_VIDEO, {3, 4, 3, 1}, 7),
                          ItemOf("text", v1::MODALITY_TEXT, {1}), expiring}),
      IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 1), ElementsAre("a", "b"));
  EXPECT_THAT(Ids(*collection, 1, "", v1::MODALITY_VIDEO),
              ElementsAre("video"));
  EXPECT_THAT(Ids(*collection, 1, "n > 5"), ElementsAre("b"));

  // Replaced; of equal ids the last one counts, of whatever kind.
  ASSERT_THAT(
      collection->Upsert(
          {Picture("a", {5}), Picture("c", {0}), Picture("c", {1, 7}),
           Picture("d", {1}), ItemOf("d", v1::MODALITY_TEXT, {1}),
           ItemOf("text", v1::MODALITY_TEXT, {2}), Picture("text", {1})}),
      IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 1), ElementsAre("b", "c", "text"));

  // One of another etag is not written.
  Item stale = Picture("b", {5});
  stale.if_sequence = 1'000'000;
  ASSERT_THAT(collection->Upsert({stale}), IsOk());
  ExpectInStep(*collection);

  // The parts stay, filters see the new payload.
  ASSERT_THAT(collection->Update("c",
                                 [](Item& item) {
                                   item.payload = Payload(9);
                                   return absl::OkStatus();
                                 }),
              IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 1, "n = 9"), ElementsAre("c"));

  ASSERT_THAT(collection->Delete({"b", "unknown"}), IsOk());
  ExpectInStep(*collection);
  const RequestContext context(&clock_, "test");
  const auto filter =
      ValueOrDie(ParseFilter("n = 9", collection->index_fields()));
  ASSERT_THAT(collection->DeleteMatching(context, *filter), IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 1), ElementsAre("text"));

  EXPECT_THAT(Ids(*collection, 6), ElementsAre("expiring"));
  clock_.Advance(absl::Seconds(200));
  ASSERT_THAT(collection->RemoveExpired(), IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 6), IsEmpty());

  ASSERT_THAT(collection->Import({Picture("imported", {2, 3}, 5)}, {"a"}, 100),
              IsOk());
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 5), IsEmpty());
  EXPECT_THAT(Ids(*collection, 2), ElementsAre("imported"));
}

TEST_F(PartSyncTest, AStartMakesItAgainFromTheStore) {
  auto collection = Open();
  std::vector<Item> items;
  for (int i = 0; i < 300; ++i) {
    items.push_back(Picture(absl::StrCat("p", i),
                            {i % kDimension, (i / 3) % kDimension}, i % 10));
  }
  items.push_back(ItemOf("video", v1::MODALITY_VIDEO, {1, 2}));
  items.push_back(ItemOf("text", v1::MODALITY_TEXT, {1}));
  ASSERT_THAT(collection->Upsert(items), IsOk());
  ASSERT_THAT(collection->Delete({"p3"}), IsOk());
  const auto before = Ids(*collection, 2, "n < 7");
  collection.reset();
  collection = Open();
  EXPECT_EQ(collection->part_index()->missing(), "");
  EXPECT_EQ(collection->part_index()->items(), 300);
  EXPECT_EQ(Ids(*collection, 2, "n < 7"), before);
  ExpectInStep(*collection);
}

TEST_F(PartSyncTest, ItsMemoryIsTheCollections) {
  const auto collection = Open();
  const int64_t before = collection->Describe().status().memory_bytes();
  const int64_t index = collection->index().memory_bytes();
  std::vector<Item> items;
  for (int i = 0; i < 50; ++i) {
    items.push_back(Picture(absl::StrCat(i), {0, 1, 2, 3, 4, 5, 6}));
  }
  ASSERT_THAT(collection->Upsert(items), IsOk());
  EXPECT_EQ(collection->Describe().status().memory_bytes() - before,
            collection->index().memory_bytes() - index +
                collection->part_index()->memory_bytes());
  EXPECT_GT(collection->part_index()->memory_bytes(), 50 * 7 * kDimension);
}

TEST_F(PartSyncTest, SettingsMakeAndDropIt) {
  const auto collection = Open();
  ASSERT_THAT(collection->Upsert({Picture("a", {0, 1}), Picture("b", {2})}),
              IsOk());
  const int64_t version = collection->index_version();
  v1::Collection record = SearchableRecord();
  record.mutable_parts()->set_searchable(false);
  const std::shared_ptr<const PartIndex> held = collection->part_index();
  collection->set_settings(ValueOrDie(SettingsOf(record)));
  EXPECT_EQ(collection->part_index(), nullptr);
  EXPECT_EQ(held->items(), 2) << "a search under way goes on";
  EXPECT_GT(collection->index_version(), version);
  ASSERT_THAT(collection->Upsert({Picture("c", {1})}), IsOk());

  collection->set_settings(ValueOrDie(SettingsOf(SearchableRecord())));
  ASSERT_NE(collection->part_index(), nullptr);
  EXPECT_EQ(collection->part_index()->missing(), "");
  ExpectInStep(*collection);
  EXPECT_THAT(Ids(*collection, 1), ElementsAre("a", "c"));
  // Nothing changes by other settings.
  const std::shared_ptr<const PartIndex> kept = collection->part_index();
  record = SearchableRecord();
  record.set_description("changed");
  collection->set_settings(ValueOrDie(SettingsOf(record)));
  EXPECT_EQ(collection->part_index(), kept);
}

TEST_F(PartSyncTest, ItemsWithoutPartsAreCounted) {
  const auto collection = Open();
  Item bare = Picture("bare", {0});
  bare.parts.clear();
  Item damaged = Picture("damaged", {0});
  damaged.parts = "damaged";
  Item wide = Picture("wide", {0});
  PartFeatures other{.shape = {.grid_height = 1, .grid_width = 1}};
  const std::vector<float> values(kDimension + 1, 1);
  other.features = QuantizeUnitRows(
      {.data = values.data(), .rows = 1, .columns = kDimension + 1});
  wide.parts = EncodeParts(other);
  ASSERT_THAT(collection->Upsert({bare, damaged, wide, Picture("a", {0})}),
              IsOk());
  const RequestContext context(&clock_, "test");
  PartIndexStats stats;
  EXPECT_THAT(collection->part_index()->Search(context, Axis(0), {}, &stats),
              IsOk());
  EXPECT_EQ(stats.items, 4);
  EXPECT_EQ(stats.without_parts, 3);
}

// Holds back whoever reads ids alone, as the filling does.
class GatedItemStore final : public ForwardingItemStore {
 public:
  GatedItemStore(std::shared_ptr<ItemStore> store, absl::Notification* gate)
      : ForwardingItemStore(std::move(store)), gate_(gate) {}

  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override {
    if (!parts.payload && !parts.embedding) gate_->WaitForNotification();
    return ForwardingItemStore::Scan(after_id, parts, visit);
  }

 private:
  absl::Notification* const gate_;
};

TEST_F(PartSyncTest, ManyItemsAreReadWhileWritesGoOn) {
  auto collection = Open();
  std::vector<Item> items;
  for (int i = 0; i < 2100; ++i) {
    items.push_back(Picture(absl::StrCat("p", i), {i % kDimension}, i % 10));
  }
  ASSERT_THAT(collection->Upsert(items), IsOk());
  collection.reset();
  absl::Notification gate;
  wrap_ = [&gate](std::shared_ptr<ItemStore> store) {
    return std::make_unique<GatedItemStore>(std::move(store), &gate);
  };
  collection = Open();
  EXPECT_THAT(collection->part_index()->missing(), HasSubstr("being made"));
  v1::CollectionStatus status = collection->Describe().status();
  EXPECT_EQ(status.state(), v1::CollectionStatus::STATE_LOADING);
  EXPECT_THAT(status.message(), HasSubstr("index of parts"));
  // What is written meanwhile is not undone by what is read later.
  ASSERT_THAT(collection->Upsert({Picture("p0", {5}), Picture("new", {6})}),
              IsOk());
  ASSERT_THAT(collection->Delete({"p1"}), IsOk());
  const int64_t version = collection->index_version();
  gate.Notify();
  while (!collection->part_index()->missing().empty()) {
    std::this_thread::yield();
  }
  EXPECT_EQ(collection->part_index()->items(), 2100);
  EXPECT_GT(collection->index_version(), version);
  status = collection->Describe().status();
  EXPECT_EQ(status.state(), v1::CollectionStatus::STATE_READY);
  EXPECT_EQ(status.message(), "");
  ExpectInStep(*collection);
}

TEST_F(PartSyncTest, WhatCannotBeReadIsSaid) {
  wrap_ = [](std::shared_ptr<ItemStore> store) {
    return std::make_unique<UnlistedItemStore>(std::move(store));
  };
  const auto collection = Open();
  ASSERT_THAT(collection->Upsert({Picture("a", {0})}), IsOk());
  EXPECT_THAT(collection->part_index()->missing(), HasSubstr("being made"));
}

// Writes, then says that it could not, once.
class HalfDeafItemStore final : public ForwardingItemStore {
 public:
  HalfDeafItemStore(std::shared_ptr<ItemStore> store, bool* fails)
      : ForwardingItemStore(std::move(store)), fails_(fails) {}

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override {
    return Told(ForwardingItemStore::Put(items));
  }
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) override {
    return Told(ForwardingItemStore::Delete(ids));
  }

 private:
  template <typename Result>
  Result Told(Result result) {
    if (!std::exchange(*fails_, false)) return result;
    return absl::ResourceExhaustedError("the disk is full");
  }

  bool* const fails_;
};

TEST_F(PartSyncTest, AWriteThatFailedAndWasDoneIsTakenOverByTheNext) {
  bool fails = false;
  wrap_ = [&fails](std::shared_ptr<ItemStore> store) {
    return std::make_unique<HalfDeafItemStore>(std::move(store), &fails);
  };
  const auto collection = Open();
  ASSERT_THAT(collection->Upsert({Picture("a", {0}), Picture("b", {1})}),
              IsOk());
  fails = true;
  EXPECT_FALSE(collection->Upsert({Picture("c", {2})}).ok());
  fails = true;
  EXPECT_FALSE(collection->Delete({"a"}).ok());
  ASSERT_THAT(collection->Upsert({Picture("d", {2})}), IsOk());
  EXPECT_THAT(Ids(*collection, 0), IsEmpty());
  EXPECT_THAT(Ids(*collection, 2), ElementsAre("c", "d"));
  ExpectInStep(*collection);
}

// Run it under ThreadSanitizer.
TEST_F(PartSyncTest, WritesSearchesAndSettingsAtOnce) {
  constexpr int kWriters = 2;
  constexpr int kIds = 20;
  constexpr int kRounds = 60;
  const auto collection = Open();
  std::atomic<int> writing = kWriters;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (int round = 0; round < kRounds; ++round) {
        std::vector<Item> items;
        std::vector<std::string> deleted;
        for (int i = 0; i < kIds; ++i) {
          const std::string id = absl::StrCat(writer, "/", i);
          if ((i + round) % 5 == 0) {
            deleted.push_back(id);
          } else {
            items.push_back(Picture(
                id, {(i + round) % kDimension, i % kDimension}, round % 10));
          }
        }
        ASSERT_THAT(collection->Upsert(items), IsOk());
        ASSERT_THAT(collection->Delete(deleted), IsOk());
        (void)collection->Update(absl::StrCat(writer, "/", 1), [](Item& item) {
          item.payload = Payload(20);
          return absl::OkStatus();
        });
      }
      --writing;
    });
  }
  threads.emplace_back([&] {
    v1::Collection record = SearchableRecord();
    while (writing > 0) {
      record.mutable_parts()->set_searchable(!record.parts().searchable());
      collection->set_settings(ValueOrDie(SettingsOf(record)));
    }
  });
  const RequestContext context(&clock_, "test");
  while (writing > 0) {
    const std::shared_ptr<const PartIndex> index = collection->part_index();
    if (index == nullptr) continue;
    PartIndexStats stats;
    const auto found =
        ValueOrDie(index->Search(context, Axis(1), {.k = 1000}, &stats));
    ASSERT_LE(found.size(), size_t{kWriters * kIds});
    (void)collection->Describe();
  }
  for (std::thread& thread : threads) thread.join();
  collection->set_settings(ValueOrDie(SettingsOf(SearchableRecord())));
  EXPECT_EQ(collection->part_index()->missing(), "");
  ExpectInStep(*collection);
}

}  // namespace
}  // namespace quern
