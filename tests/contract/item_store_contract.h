#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/store/item_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

// What every ItemStore must do. A backend runs the suite by one line in
// tests/store/item_store_test.cc.

namespace quern {

struct ItemStoreBackend {
  std::string name;
  // Opens the store in `folder`, again after it was closed.
  std::function<std::unique_ptr<ItemStore>(const std::string& folder,
                                           int64_t dimension)>
      open;
  bool durable = true;  // What was put is there after open() again.
};

inline void PrintTo(const ItemStoreBackend& backend, std::ostream* out) {
  *out << backend.name;
}

class ItemStoreContract : public testing::TestWithParam<ItemStoreBackend> {
 protected:
  static constexpr int64_t kDimension = 4;
  static constexpr int kThreads = 6;
  static constexpr int kRounds = 40;  // Of each thread; divisible by 4.

  ItemStoreContract() { Reopen(); }

  void Reopen() {
    store_.reset();
    store_ = GetParam().open(directory_.File("store"), kDimension);
  }

  // An item that differs from every other (id, version).
  static Item MakeItem(const std::string& id, int version = 0) {
    const auto number = static_cast<float>(version);
    return Item{
        .id = id,
        .payload = absl::StrCat("payload of ", id, " v", version),
        .embedding = {number, -0.5F, static_cast<float>(id.size()), 1e-30F},
        .modality = version % 3,
        .media_uri = absl::StrCat("file:///", id),
        .create_time = absl::FromUnixSeconds(1000 + version),
        .update_time = absl::FromUnixSeconds(2000 + version)};
  }

  static std::vector<Item> MakeItems(const std::string& prefix, int count) {
    std::vector<Item> items;
    for (int i = 0; i < count; ++i) {
      items.push_back(MakeItem(absl::StrFormat("%s%05d", prefix, i)));
    }
    return items;
  }

  std::optional<Item> GetWhole(const std::string& id) const {
    auto found = ValueOrDie(
        store_->Get({id}, ItemParts{.payload = true, .embedding = true}));
    EXPECT_EQ(found.size(), 1u);
    return found[0];
  }

  std::vector<std::string> ScanIds(const std::string& after_id = "",
                                   size_t max_items = SIZE_MAX) const {
    std::vector<std::string> ids;
    EXPECT_THAT(store_->Scan(after_id, ItemParts{},
                             [&](const Item& item) {
                               ids.push_back(item.id);
                               return ids.size() < max_items;
                             }),
                IsOk());
    return ids;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<ItemStore> store_;
};

inline void ExpectSameItem(const std::optional<Item>& actual,
                           const Item& expected) {
  ASSERT_TRUE(actual.has_value()) << expected.id;
  EXPECT_EQ(actual->id, expected.id);
  EXPECT_EQ(actual->payload, expected.payload) << expected.id;
  EXPECT_EQ(actual->embedding, expected.embedding) << expected.id;
  EXPECT_EQ(actual->modality, expected.modality) << expected.id;
  EXPECT_EQ(actual->media_uri, expected.media_uri) << expected.id;
  EXPECT_EQ(actual->create_time, expected.create_time) << expected.id;
  EXPECT_EQ(actual->update_time, expected.update_time) << expected.id;
}

TEST_P(ItemStoreContract, StartsEmpty) {
  EXPECT_EQ(store_->count(), 0);
  EXPECT_THAT(ScanIds(), testing::IsEmpty());
  EXPECT_FALSE(GetWhole("a").has_value());
}

TEST_P(ItemStoreContract, WhatWasPutComesBack) {
  Item item = MakeItem("a");
  item.payload = std::string("zeros\0\0and \xff\xfe bytes", 19);
  item.create_time = absl::FromUnixNanos(1'700'000'000'123'456'789);
  ASSERT_THAT(store_->Put({item}), IsOk());
  ExpectSameItem(GetWhole("a"), item);
  EXPECT_EQ(store_->count(), 1);
}

TEST_P(ItemStoreContract, TakesEmptyAndLargeValues) {
  Item empty = MakeItem("empty");
  empty.payload.clear();
  empty.media_uri.clear();
  Item large = MakeItem("large");
  large.payload = std::string(3 << 20, '\x7f');
  large.media_uri = std::string(5000, 'u');
  ASSERT_THAT(store_->Put({empty, large}), IsOk());
  ExpectSameItem(GetWhole("empty"), empty);
  ExpectSameItem(GetWhole("large"), large);
}

TEST_P(ItemStoreContract, IdsAreBytes) {
  const std::vector<std::string> ids = {"Eule",
                                        "Überflug/梟/🦉",
                                        std::string("nul\0nul", 7),
                                        std::string(1, '\0'),
                                        std::string(512, 'x'),
                                        std::string(511, 'x')};
  for (const std::string& id : ids) {
    ASSERT_THAT(store_->Put({MakeItem(id)}), IsOk());
  }
  for (const std::string& id : ids) ExpectSameItem(GetWhole(id), MakeItem(id));
  EXPECT_THAT(ScanIds(), testing::UnorderedElementsAreArray(ids));
}

TEST_P(ItemStoreContract, RefusesIdsOfTheWrongSizeAndStoresNothing) {
  for (const std::string& id : {std::string(), std::string(513, 'x')}) {
    const absl::Status status =
        store_->Put({MakeItem("good"), MakeItem(id)}).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(status), "items[1].id");
  }
  EXPECT_EQ(store_->count(), 0);
  EXPECT_FALSE(GetWhole("good").has_value());
}

TEST_P(ItemStoreContract, RefusesEmbeddingsOfTheWrongSizeAndStoresNothing) {
  for (const size_t size : {size_t{0}, size_t{3}, size_t{5}}) {
    Item bad = MakeItem("bad");
    bad.embedding.resize(size);
    const absl::Status status = store_->Put({MakeItem("good"), bad}).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 testing::HasSubstr("4")));
    EXPECT_EQ(GetField(status), "items[1].embedding");
  }
  EXPECT_EQ(store_->count(), 0);
}

TEST_P(ItemStoreContract, PutReplacesAndKeepsTheFirstCreateTime) {
  ASSERT_THAT(store_->Put({MakeItem("a", 1)}), IsOk());
  ASSERT_THAT(store_->Put({MakeItem("a", 2)}), IsOk());
  Item expected = MakeItem("a", 2);
  expected.create_time = MakeItem("a", 1).create_time;
  ExpectSameItem(GetWhole("a"), expected);
  EXPECT_EQ(store_->count(), 1);
}

TEST_P(ItemStoreContract, PutTellsWhichIdsWereNew) {
  EXPECT_THAT(ValueOrDie(store_->Put(
                  {MakeItem("a", 1), MakeItem("b", 1), MakeItem("a", 2)})),
              testing::ElementsAre(true, true, false));
  EXPECT_THAT(ValueOrDie(store_->Put(
                  {MakeItem("c", 1), MakeItem("a", 3), MakeItem("c", 2)})),
              testing::ElementsAre(true, false, false));
}

TEST_P(ItemStoreContract, ADeletedIdIsNewAgain) {
  ASSERT_THAT(store_->Put({MakeItem("a", 1)}), IsOk());
  ASSERT_EQ(ValueOrDie(store_->Delete({"a"})), 1);
  EXPECT_THAT(ValueOrDie(store_->Put({MakeItem("a", 2)})),
              testing::ElementsAre(true));
  ExpectSameItem(GetWhole("a"), MakeItem("a", 2));
}

TEST_P(ItemStoreContract, OfEqualIdsInOnePutTheLastWins) {
  ASSERT_THAT(
      store_->Put({MakeItem("a", 1), MakeItem("b", 1), MakeItem("a", 2)}),
      IsOk());
  ExpectSameItem(GetWhole("a"), MakeItem("a", 2));
  ExpectSameItem(GetWhole("b"), MakeItem("b", 1));
  EXPECT_EQ(store_->count(), 2);
}

TEST_P(ItemStoreContract, EmptyCallsDoNothing) {
  EXPECT_THAT(store_->Put({}), IsOk());
  EXPECT_EQ(ValueOrDie(store_->Delete({})), 0);
  EXPECT_THAT(ValueOrDie(store_->Get({}, ItemParts{})), testing::IsEmpty());
}

TEST_P(ItemStoreContract, DeleteCountsTheIdsThatExisted) {
  ASSERT_THAT(store_->Put(MakeItems("a", 5)), IsOk());
  EXPECT_EQ(ValueOrDie(store_->Delete({"a00001", "a00003", "nothing", "a00001",
                                       std::string(600, 'x'), ""})),
            2);
  EXPECT_EQ(ValueOrDie(store_->Delete({"a00001"})), 0);
  EXPECT_EQ(store_->count(), 3);
  EXPECT_THAT(ScanIds(), testing::ElementsAre("a00000", "a00002", "a00004"));
  EXPECT_FALSE(GetWhole("a00001").has_value());
}

TEST_P(ItemStoreContract, GetKeepsTheOrderOfTheIds) {
  ASSERT_THAT(store_->Put({MakeItem("a"), MakeItem("b")}), IsOk());
  const auto found =
      ValueOrDie(store_->Get({"b", "nothing", "a", "b"}, ItemParts{}));
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].value().id, "b");
  EXPECT_FALSE(found[1].has_value());
  EXPECT_EQ(found[2].value().id, "a");
  EXPECT_EQ(found[3].value().id, "b");
}

TEST_P(ItemStoreContract, BringsTheAskedPartsAlone) {
  const Item item = MakeItem("a");
  ASSERT_THAT(store_->Put({item}), IsOk());
  for (const bool payload : {false, true}) {
    for (const bool embedding : {false, true}) {
      Item expected = item;
      if (!payload) expected.payload.clear();
      if (!embedding) expected.embedding.clear();
      const ItemParts parts{.payload = payload, .embedding = embedding};
      ExpectSameItem(ValueOrDie(store_->Get({"a"}, parts))[0], expected);
      ASSERT_THAT(store_->Scan("", parts,
                               [&expected](const Item& scanned) {
                                 ExpectSameItem(scanned, expected);
                                 return true;
                               }),
                  IsOk());
    }
  }
}

TEST_P(ItemStoreContract, ScanGoesInByteOrder) {
  const std::vector<std::string> ordered = {
      std::string("\0", 1), "A",   "a", std::string("a\0", 2), "ab", "b",
      "\xc3\xa9",           "\xff"};
  for (size_t i = ordered.size(); i > 0; --i) {
    ASSERT_THAT(store_->Put({MakeItem(ordered[i - 1])}), IsOk());
  }
  EXPECT_EQ(ScanIds(), ordered);
}

TEST_P(ItemStoreContract, ScanStartsAfterAnIdThatNeedNotExist) {
  ASSERT_THAT(store_->Put({MakeItem("a"), MakeItem("c"), MakeItem("e")}),
              IsOk());
  EXPECT_THAT(ScanIds("a"), testing::ElementsAre("c", "e"));
  EXPECT_THAT(ScanIds("b"), testing::ElementsAre("c", "e"));
  EXPECT_THAT(ScanIds("e"), testing::IsEmpty());
}

TEST_P(ItemStoreContract, PagesCoverEveryItemOnceWhileOthersAreWritten) {
  const std::vector<Item> items = MakeItems("m", 50);
  ASSERT_THAT(store_->Put(items), IsOk());
  std::vector<std::string> seen;
  while (true) {
    const auto page = ScanIds(seen.empty() ? "" : seen.back(), 7);
    if (page.empty()) break;
    seen.insert(seen.end(), page.begin(), page.end());
    // Before and behind the page: the first must not come, the others may.
    ASSERT_THAT(store_->Put({MakeItem(absl::StrCat("a", seen.size())),
                             MakeItem(page.back(), 9)}),
                IsOk());
  }
  std::vector<std::string> expected;
  for (const Item& item : items) expected.push_back(item.id);
  EXPECT_EQ(seen, expected);
}

TEST_P(ItemStoreContract, AScanSeesOneMoment) {
  ASSERT_THAT(store_->Put(MakeItems("m", 100)), IsOk());
  std::vector<Item> scanned;
  ASSERT_THAT(store_->Scan("", ItemParts{.payload = true, .embedding = true},
                           [&](Item item) {
                             if (scanned.empty()) {
                               EXPECT_THAT(store_->Put({MakeItem("m00050", 7),
                                                        MakeItem("m00050a")}),
                                           IsOk());
                               EXPECT_THAT(store_->Delete({"m00060"}), IsOk());
                             }
                             scanned.push_back(std::move(item));
                             return true;
                           }),
              IsOk());
  const std::vector<Item> expected = MakeItems("m", 100);
  ASSERT_EQ(scanned.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ExpectSameItem(scanned[i], expected[i]);
  }
}

TEST_P(ItemStoreContract, AgreesWithAMapOverRandomCalls) {
  std::mt19937 random(20260101);
  std::map<std::string, Item> expected;
  for (int step = 1; step <= 300; ++step) {
    std::vector<Item> items;
    std::vector<std::string> ids;
    for (int i = std::uniform_int_distribution<>(0, 8)(random); i >= 0; --i) {
      ids.push_back(
          absl::StrCat("id", std::uniform_int_distribution<>(0, 40)(random)));
      items.push_back(MakeItem(ids.back(), step * 10 + i));
    }
    if (std::uniform_int_distribution<>(0, 2)(random) == 0) {
      int64_t existed = 0;
      for (const std::string& id : ids) {
        existed += static_cast<int64_t>(expected.erase(id));
      }
      EXPECT_EQ(ValueOrDie(store_->Delete(ids)), existed);
    } else {
      ASSERT_THAT(store_->Put(items), IsOk());
      std::map<std::string, Item> last;
      for (const Item& item : items) last[item.id] = item;
      for (auto& [id, item] : last) {
        const auto known = expected.find(id);
        if (known != expected.end()) {
          item.create_time = known->second.create_time;
        }
        expected[id] = item;
      }
    }
    ASSERT_EQ(store_->count(), static_cast<int64_t>(expected.size()));
    if (step % 100 == 0 && GetParam().durable) Reopen();
  }
  auto next = expected.begin();
  ASSERT_THAT(store_->Scan("", ItemParts{.payload = true, .embedding = true},
                           [&](const Item& item) {
                             if (next == expected.end()) {
                               ADD_FAILURE() << "phantom " << item.id;
                               return false;
                             }
                             ExpectSameItem(item, next->second);
                             ++next;
                             return true;
                           }),
              IsOk());
  EXPECT_TRUE(next == expected.end());
}

TEST_P(ItemStoreContract, ReopenKeepsEverything) {
  if (!GetParam().durable) GTEST_SKIP() << "lives in memory";
  ASSERT_THAT(store_->Put(MakeItems("m", 300)), IsOk());
  ASSERT_THAT(store_->Put({MakeItem("m00007", 5)}), IsOk());
  ASSERT_THAT(store_->Delete({"m00009"}), IsOk());
  Reopen();
  EXPECT_EQ(store_->count(), 299);
  EXPECT_GT(store_->disk_bytes(), 0);
  Item changed = MakeItem("m00007", 5);
  changed.create_time = MakeItem("m00007").create_time;
  ExpectSameItem(GetWhole("m00007"), changed);
  EXPECT_FALSE(GetWhole("m00009").has_value());
  ExpectSameItem(GetWhole("m00299"), MakeItem("m00299"));
}

TEST_P(ItemStoreContract, ConcurrentWritersOfTheSameIdsStayExact) {
  std::atomic<int64_t> deleted = 0;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &deleted] {
      for (int round = 0; round < kRounds; ++round) {
        const std::string own = absl::StrCat("own", t, "-", round);
        // Opposite orders: locks taken one by one would wait for each other.
        std::vector<Item> items = {MakeItem("x", 1), MakeItem("y", 1),
                                   MakeItem(own)};
        if (t % 2 == 1) std::swap(items[0], items[1]);
        EXPECT_THAT(store_->Put(items), IsOk());
        if (round % 4 == 0) {
          deleted += ValueOrDie(store_->Delete({own, own}));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(deleted, kThreads * kRounds / 4);
  EXPECT_EQ(store_->count(), 2 + kThreads * kRounds * 3 / 4);
  EXPECT_EQ(static_cast<int64_t>(ScanIds().size()), store_->count());
}

TEST_P(ItemStoreContract, ReadersSeeAllOfAPutOrNothing) {
  std::atomic<bool> stop = false;
  std::thread writer([this, &stop] {
    for (int version = 1; !stop; ++version) {
      EXPECT_THAT(store_->Put({MakeItem("a", version), MakeItem("b", version)}),
                  IsOk());
    }
  });
  const ItemParts whole{.payload = true, .embedding = true};
  for (int i = 0; i < 300; ++i) {
    const auto found = ValueOrDie(store_->Get({"a", "b"}, whole));
    ASSERT_EQ(found[0].has_value(), found[1].has_value());
    if (!found[0].has_value()) continue;
    EXPECT_EQ(found[0]->update_time, found[1]->update_time);
    EXPECT_EQ(found[0]->embedding[0], found[1]->embedding[0]);
    EXPECT_EQ(absl::FromUnixSeconds(
                  2000 + static_cast<int64_t>(found[0]->embedding[0])),
              found[0]->update_time);
  }
  stop = true;
  writer.join();
}

}  // namespace quern
