#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/store/item_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

// What every ItemStore must do. A backend runs the suite by one line in
// tests/store/item_store_test.cc.

namespace quern {

struct ItemStoreBackend {
  std::string name;
  // Opens the store in `folder`, again after it was closed. Its items expire by
  // `clock`.
  std::function<std::unique_ptr<ItemStore>(
      const std::string& folder, int64_t dimension, const Clock* clock)>
      open;
  bool durable = true;  // What was put is there after open() again.
};

inline void PrintTo(const ItemStoreBackend& backend, std::ostream* out) {
  *out << backend.name;
}

class ItemStoreContract : public testing::TestWithParam<ItemStoreBackend> {
 protected:
  static constexpr int64_t kDimension = 4;
  static constexpr ItemParts kWhole{
      .payload = true, .embedding = true, .parts = true, .media = true};
  static constexpr int kThreads = 6;
  static constexpr int kRounds = 40;  // Of each thread; divisible by 4.

  ItemStoreContract() { Reopen(); }

  void Reopen() {
    store_.reset();
    store_ = GetParam().open(directory_.File("store"), kDimension, &clock_);
  }

  // An item that differs from every other (id, version).
  static Item MakeItem(const std::string& id, int version = 0) {
    const auto number = static_cast<float>(version);
    return Item{
        .id = id,
        .payload = absl::StrCat("payload of ", id, " v", version),
        .embedding = {number, -0.5F, static_cast<float>(id.size()), 1e-30F},
        // Every third version has none.
        .parts = version % 3 == 2 ? "" : absl::StrCat("parts of ", id, version),
        // Every second one has none.
        .media = version % 2 == 1 ? "" : absl::StrCat("media of ", id, version),
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
    auto found = ValueOrDie(store_->Get({id}, kWhole));
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

  static Item MakeExpiring(const std::string& id, absl::Time expire_time) {
    Item item = MakeItem(id);
    item.expire_time = expire_time;
    return item;
  }

  // "number:id" of every change after a number.
  std::vector<std::string> Changes(uint64_t after) const {
    std::vector<std::string> changes;
    EXPECT_THAT(store_->ScanChanges(
                    after,
                    [&](uint64_t sequence, absl::string_view id) {
                      changes.push_back(absl::StrCat(sequence, ":", id));
                      return true;
                    }),
                IsOk());
    return changes;
  }

  TemporaryDirectory directory_;
  FakeClock clock_{absl::FromUnixSeconds(10'000)};
  std::unique_ptr<ItemStore> store_;
};

// Those of `results` that are OK.
inline std::vector<bool> Created(const std::vector<PutResult>& results) {
  std::vector<bool> created;
  for (const PutResult& result : results) {
    EXPECT_THAT(result.status, IsOk());
    created.push_back(result.created);
  }
  return created;
}

inline void ExpectSameItem(const std::optional<Item>& actual,
                           const Item& expected) {
  ASSERT_TRUE(actual.has_value()) << expected.id;
  EXPECT_EQ(actual->id, expected.id);
  EXPECT_EQ(actual->payload, expected.payload) << expected.id;
  EXPECT_EQ(actual->embedding, expected.embedding) << expected.id;
  EXPECT_EQ(actual->parts, expected.parts) << expected.id;
  EXPECT_EQ(actual->media, expected.media) << expected.id;
  EXPECT_EQ(actual->modality, expected.modality) << expected.id;
  EXPECT_EQ(actual->media_uri, expected.media_uri) << expected.id;
  EXPECT_EQ(actual->create_time, expected.create_time) << expected.id;
  EXPECT_EQ(actual->update_time, expected.update_time) << expected.id;
  EXPECT_EQ(actual->expire_time, expected.expire_time) << expected.id;
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
  EXPECT_THAT(Created(ValueOrDie(store_->Put(
                  {MakeItem("a", 1), MakeItem("b", 1), MakeItem("a", 2)}))),
              testing::ElementsAre(true, true, false));
  EXPECT_THAT(Created(ValueOrDie(store_->Put(
                  {MakeItem("c", 1), MakeItem("a", 3), MakeItem("c", 2)}))),
              testing::ElementsAre(true, false, false));
}

TEST_P(ItemStoreContract, ADeletedIdIsNewAgain) {
  ASSERT_THAT(store_->Put({MakeItem("a", 1)}), IsOk());
  ASSERT_EQ(ValueOrDie(store_->Delete({"a"})), 1);
  EXPECT_THAT(Created(ValueOrDie(store_->Put({MakeItem("a", 2)}))),
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

TEST_P(ItemStoreContract, BringsEmbeddingsInTheOrderOfTheIds) {
  const Item a = MakeItem("a");
  const Item b = MakeItem("b");
  ASSERT_THAT(store_->Put({a, b, MakeItem("gone")}), IsOk());
  ASSERT_THAT(store_->Delete({"gone"}), IsOk());
  std::vector<std::pair<size_t, std::vector<float>>> visited;
  ASSERT_THAT(store_->GetEmbeddings(
                  {"b", "nothing", "gone", "a", "b"},
                  [&visited](size_t i, absl::Span<const float> embedding) {
                    visited.emplace_back(
                        i,
                        std::vector<float>(embedding.begin(), embedding.end()));
                  }),
              IsOk());
  EXPECT_THAT(visited, testing::ElementsAre(testing::Pair(0, b.embedding),
                                            testing::Pair(3, a.embedding),
                                            testing::Pair(4, b.embedding)));
}

TEST_P(ItemStoreContract, VisitsPartsInTheOrderOfTheIds) {
  std::vector<Item> items;
  std::vector<std::string> ids;
  // More than are read at once.
  for (int i = 0; i < 150; ++i) {
    items.push_back(MakeItem(absl::StrCat("item", i)));
    items.back().parts = i % 3 == 0 ? "" : absl::StrCat("parts of ", i);
    ids.push_back(items.back().id);
  }
  ASSERT_THAT(store_->Put(items), IsOk());
  ids.insert(ids.begin(), "nothing");
  ids.push_back("item1");
  std::vector<std::string> visited;
  const auto visit = [&](size_t i, absl::string_view parts) {
    EXPECT_EQ(absl::StrCat("parts of ", ids[i].substr(4)), parts);
    visited.push_back(ids[i]);
    return true;
  };
  ASSERT_THAT(store_->VisitParts(ids, visit), IsOk());
  EXPECT_EQ(visited.size(), 101u);
  EXPECT_EQ(visited.front(), "item1");
  EXPECT_EQ(visited.back(), "item1");
  int calls = 0;
  ASSERT_THAT(
      store_->VisitParts(
          ids, [&](size_t /*i*/, absl::string_view) { return ++calls < 3; }),
      IsOk());
  EXPECT_EQ(calls, 3);
}

TEST_P(ItemStoreContract, BringsTheAskedPartsAlone) {
  const Item item = MakeItem("a");
  ASSERT_THAT(store_->Put({item}), IsOk());
  for (const bool payload : {false, true}) {
    for (const bool embedding : {false, true}) {
      for (const bool features : {false, true}) {
        Item expected = item;
        const bool media = payload != features;
        if (!payload) expected.payload.clear();
        if (!embedding) expected.embedding.clear();
        if (!features) expected.parts.clear();
        if (!media) expected.media.clear();
        const ItemParts parts{.payload = payload,
                              .embedding = embedding,
                              .parts = features,
                              .media = media};
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
}

TEST_P(ItemStoreContract, PartsAreReplacedAndGoWithTheirItem) {
  const auto parts_of = [this](const std::string& id) {
    const auto item = GetWhole(id);
    return item.has_value() ? item->parts : "gone";
  };
  Item item = MakeItem("a");
  item.parts = std::string("\0\xff long", 8) + std::string(1 << 20, 'p');
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(parts_of("a"), item.parts);
  item.parts = "other";
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(parts_of("a"), "other");
  item.parts.clear();
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(parts_of("a"), "");
  item.parts = "again";
  ASSERT_THAT(store_->Put({item}), IsOk());
  ASSERT_EQ(ValueOrDie(store_->Delete({"a"})), 1);
  EXPECT_EQ(parts_of("a"), "gone");
  // Nothing of the deleted item is left for the next of its id.
  item.parts.clear();
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(parts_of("a"), "");
}

TEST_P(ItemStoreContract, MediaIsReplacedAndGoesWithItsItem) {
  Item item = MakeItem("a");
  item.media = std::string("\0\xff", 2) + std::string(1 << 20, 'm');
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(GetWhole("a")->media, item.media);
  ASSERT_THAT(store_->Update("a",
                             [](Item& changed) {
                               EXPECT_EQ(changed.media, "");
                               changed.payload = "new";
                               return absl::OkStatus();
                             }),
              IsOk());
  EXPECT_EQ(GetWhole("a")->media, item.media) << "an update leaves it";
  item.media.clear();
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(GetWhole("a")->media, "");
  item.media = "again";
  ASSERT_THAT(store_->Put({item}), IsOk());
  ASSERT_EQ(ValueOrDie(store_->Delete({"a"})), 1);
  item.media.clear();
  ASSERT_THAT(store_->Put({item}), IsOk());
  EXPECT_EQ(GetWhole("a")->media, "") << "nothing is left of the deleted one";
}

// A copy that is made while the other goes on ends like it: items, sequences,
// the end of the log.
TEST_P(ItemStoreContract, AnImportMakesACopyThatGoesOnWhereTheOtherIs) {
  std::unique_ptr<ItemStore> copy =
      GetParam().open(directory_.File("copy"), kDimension, &clock_);
  ASSERT_THAT(store_->Put(MakeItems("m", 5)), IsOk());
  ASSERT_THAT(store_->Delete({"m00004"}), IsOk());
  const uint64_t seen = store_->last_sequence();
  std::vector<Item> items;
  ASSERT_THAT(store_->Scan("", kWhole,
                           [&](Item item) {
                             items.push_back(std::move(item));
                             return true;
                           }),
              IsOk());
  ASSERT_THAT(copy->Import(items, {}, seen), IsOk());
  EXPECT_EQ(copy->last_sequence(), seen);
  EXPECT_EQ(copy->trimmed_sequence(), seen);

  // What came since: one changed, one removed, one come and gone.
  clock_.Advance(absl::Seconds(5));
  ASSERT_THAT(
      store_->Put({MakeExpiring("m00001", absl::FromUnixSeconds(20'000)),
                   MakeItem("gone")}),
      IsOk());
  ASSERT_THAT(store_->Delete({"m00002", "gone"}), IsOk());
  const uint64_t last = store_->last_sequence();
  ASSERT_THAT(copy->Import({*GetWhole("m00001")}, {"m00002", "gone"}, last),
              IsOk());
  if (GetParam().durable) {
    copy.reset();
    copy = GetParam().open(directory_.File("copy"), kDimension, &clock_);
  }
  EXPECT_EQ(copy->last_sequence(), last);
  EXPECT_EQ(copy->count(), store_->count());
  std::vector<Item> expected;
  ASSERT_THAT(store_->Scan("", kWhole,
                           [&](Item item) {
                             expected.push_back(std::move(item));
                             return true;
                           }),
              IsOk());
  size_t next = 0;
  ASSERT_THAT(copy->Scan("", kWhole,
                         [&](const Item& item) {
                           ExpectSameItem(item, expected.at(next));
                           EXPECT_EQ(item.sequence, expected[next].sequence);
                           ++next;
                           return true;
                         }),
              IsOk());
  EXPECT_EQ(next, expected.size());
  std::set<std::string> changed;
  ASSERT_THAT(copy->ScanChanges(seen,
                                [&](uint64_t sequence, absl::string_view id) {
                                  EXPECT_LE(sequence, last);
                                  changed.emplace(id);
                                  return true;
                                }),
              IsOk());
  EXPECT_EQ(changed, std::set<std::string>({"gone", "m00001", "m00002"}));
  // An etag of before goes on to count, and no number is given twice.
  Item asked = MakeItem("m00003", 7);
  asked.if_sequence = GetWhole("m00003")->sequence;
  const auto written = ValueOrDie(copy->Put({asked}));
  EXPECT_THAT(written[0].status, IsOk());
  EXPECT_GT(written[0].sequence, last);
  // The time of expiry came along.
  clock_.Advance(absl::Seconds(20'000));
  EXPECT_THAT(ValueOrDie(copy->RemoveExpired(10)),
              testing::ElementsAre("m00001"));
}

TEST_P(ItemStoreContract, ChangesThatSomebodyNeedsAreNotTrimmed) {
  ASSERT_THAT(store_->Put({MakeItem("a")}), IsOk());
  const uint64_t needed = store_->last_sequence();
  store_->KeepChanges(needed);
  const uint64_t last = ValueOrDie(store_->Put({MakeItem("b")}))[0].sequence;
  ASSERT_THAT(store_->TrimChanges(last), IsOk());
  EXPECT_EQ(store_->trimmed_sequence(), needed);
  EXPECT_THAT(Changes(needed), testing::ElementsAre(absl::StrCat(last, ":b")));
  store_->KeepChanges(std::nullopt);
  ASSERT_THAT(store_->TrimChanges(last), IsOk());
  EXPECT_EQ(store_->trimmed_sequence(), last);
}

TEST_P(ItemStoreContract, AScanFindsThePartsOfThoseThatHaveSome) {
  std::vector<Item> items = MakeItems("m", 40);
  for (size_t i = 0; i < items.size(); ++i) {
    // Runs of items without, so that the walks do not go in step.
    items[i].parts = i % 7 < 3 ? "" : absl::StrCat("parts ", i);
  }
  ASSERT_THAT(store_->Put(items), IsOk());
  for (const std::string& after : {std::string(), items[20].id}) {
    std::vector<Item> scanned;
    ASSERT_THAT(store_->Scan(after, kWhole,
                             [&](Item found) {
                               scanned.push_back(std::move(found));
                               return true;
                             }),
                IsOk());
    const size_t first = after.empty() ? 0 : 21;
    ASSERT_EQ(scanned.size(), items.size() - first);
    for (size_t i = 0; i < scanned.size(); ++i) {
      ExpectSameItem(scanned[i], items[first + i]);
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
  ASSERT_THAT(store_->Scan("", kWhole,
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

TEST_P(ItemStoreContract, SequencesRiseAndComeWithTheItem) {
  const uint64_t before = store_->last_sequence();
  const auto first = ValueOrDie(
      store_->Put({MakeItem("a", 1), MakeItem("b"), MakeItem("a", 2)}));
  EXPECT_GT(first[0].sequence, before);
  EXPECT_GT(first[1].sequence, first[0].sequence);
  EXPECT_GT(first[2].sequence, first[1].sequence);
  EXPECT_EQ(GetWhole("a")->sequence, first[2].sequence);
  EXPECT_EQ(GetWhole("b")->sequence, first[1].sequence);
  EXPECT_EQ(store_->last_sequence(), first[2].sequence);

  ASSERT_THAT(store_->Delete({"a"}), IsOk());
  const uint64_t deleted = store_->last_sequence();
  EXPECT_GT(deleted, first[2].sequence);
  ASSERT_THAT(store_->Delete({"a"}), IsOk());
  EXPECT_EQ(store_->last_sequence(), deleted) << "nothing was there to remove";
  EXPECT_GT(ValueOrDie(store_->Put({MakeItem("a")}))[0].sequence, deleted);
}

TEST_P(ItemStoreContract, TheChangeLogTellsWhatWasWrittenSince) {
  ASSERT_THAT(store_->Put({MakeItem("a"), MakeItem("b")}), IsOk());
  const uint64_t seen = store_->last_sequence();
  EXPECT_THAT(Changes(seen), testing::IsEmpty());
  const uint64_t c = ValueOrDie(store_->Put({MakeItem("c")}))[0].sequence;
  ASSERT_THAT(store_->Delete({"a"}), IsOk());
  const uint64_t deleted = store_->last_sequence();
  const uint64_t b = ValueOrDie(store_->Update("b", [](Item& item) {
                       item.payload = "new";
                       return absl::OkStatus();
                     })).sequence;
  const std::vector<std::string> expected = {absl::StrCat(c, ":c"),
                                             absl::StrCat(deleted, ":a"),
                                             absl::StrCat(b, ":b")};
  EXPECT_EQ(Changes(seen), expected);
  EXPECT_THAT(Changes(deleted), testing::ElementsAre(expected[2]));
  EXPECT_EQ(Changes(0).size(), 5u);
  int visited = 0;
  ASSERT_THAT(store_->ScanChanges(
                  0, [&](uint64_t /*sequence*/,
                         absl::string_view /*id*/) { return ++visited < 2; }),
              IsOk());
  EXPECT_EQ(visited, 2);
  if (!GetParam().durable) return;
  Reopen();
  EXPECT_EQ(store_->last_sequence(), b);
  EXPECT_EQ(Changes(seen), expected);
}

TEST_P(ItemStoreContract, ATrimmedLogBeginsBehindTheNumber) {
  EXPECT_EQ(store_->trimmed_sequence(), 0u);
  ASSERT_THAT(store_->Put({MakeItem("a"), MakeItem("b")}), IsOk());
  const uint64_t saved = store_->last_sequence();
  const uint64_t c = ValueOrDie(store_->Put({MakeItem("c")}))[0].sequence;
  const absl::Status beyond = store_->TrimChanges(c + 1);
  EXPECT_THAT(beyond, StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_THAT(store_->TrimChanges(saved), IsOk());
  ASSERT_THAT(store_->TrimChanges(saved - 1), IsOk());
  EXPECT_EQ(store_->trimmed_sequence(), saved);
  EXPECT_THAT(Changes(0), testing::ElementsAre(absl::StrCat(c, ":c")));
  EXPECT_EQ(store_->count(), 3);
  ASSERT_THAT(store_->TrimChanges(c), IsOk());
  if (GetParam().durable) Reopen();
  EXPECT_EQ(store_->trimmed_sequence(), c);
  EXPECT_EQ(store_->last_sequence(), c) << "an empty log keeps the number";
  EXPECT_THAT(Changes(0), testing::IsEmpty());
  EXPECT_GT(ValueOrDie(store_->Put({MakeItem("d")}))[0].sequence, c);
}

TEST_P(ItemStoreContract, WhoSawTheLogUpToLastSequenceMissesNoWrite) {
  std::atomic<int> writing = kThreads;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &writing] {
      for (int round = 0; round < kRounds; ++round) {
        EXPECT_THAT(store_->Put({MakeItem(absl::StrCat(t, "-", round)),
                                 MakeItem(absl::StrCat(t, "+", round))}),
                    IsOk());
      }
      --writing;
    });
  }
  std::map<uint64_t, std::string> log;
  uint64_t seen = 0;
  for (bool more = true; more;) {
    more = writing > 0;
    const uint64_t last = store_->last_sequence();
    EXPECT_THAT(
        store_->ScanChanges(seen,
                            [&](uint64_t sequence, absl::string_view id) {
                              if (sequence > last) return false;
                              log[sequence] = std::string(id);
                              return true;
                            }),
        IsOk());
    seen = last;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(static_cast<int>(log.size()), 2 * kThreads * kRounds);
}

TEST_P(ItemStoreContract, PutWritesOnlyTheSequenceThatIsAskedFor) {
  const uint64_t a = ValueOrDie(store_->Put({MakeItem("a", 1)}))[0].sequence;
  Item right = MakeItem("a", 2);
  right.if_sequence = a;
  Item wrong = MakeItem("a", 3);
  wrong.if_sequence = a;
  Item missing = MakeItem("b", 4);
  missing.if_sequence = a;
  // The first write of the call takes `a` from the second.
  const auto results =
      ValueOrDie(store_->Put({right, wrong, missing, MakeItem("c", 5)}));
  EXPECT_THAT(results[0].status, IsOk());
  EXPECT_FALSE(results[0].created);
  EXPECT_THAT(results[1].status,
              StatusIs(absl::StatusCode::kAborted,
                       testing::AllOf(
                           testing::HasSubstr(EtagOf(a)),
                           testing::HasSubstr(EtagOf(results[0].sequence)))));
  EXPECT_THAT(results[2].status,
              StatusIs(absl::StatusCode::kAborted,
                       testing::HasSubstr("does not exist")));
  EXPECT_TRUE(results[3].created);
  Item expected = right;
  expected.create_time = MakeItem("a", 1).create_time;
  ExpectSameItem(GetWhole("a"), expected);
  EXPECT_FALSE(GetWhole("b").has_value());
  ExpectSameItem(GetWhole("c"), MakeItem("c", 5));
  EXPECT_EQ(store_->count(), 2);
  EXPECT_THAT(ValueOrDie(store_->Put({wrong}))[0].status,
              StatusIs(absl::StatusCode::kAborted));
  ExpectSameItem(GetWhole("a"), expected);
}

TEST_P(ItemStoreContract, UpdateChangesAnItemAndLeavesItsEmbedding) {
  ASSERT_THAT(store_->Put({MakeItem("a", 1)}), IsOk());
  const uint64_t before = store_->last_sequence();
  Item expected = MakeItem("a", 1);
  expected.payload = "other";
  expected.media_uri = "file:///other";
  expected.update_time = absl::FromUnixSeconds(3000);
  expected.expire_time = absl::FromUnixSeconds(20'000);
  Item given;
  const Item updated = ValueOrDie(store_->Update("a", [&](Item& item) {
    given = item;
    item.payload = expected.payload;
    item.media_uri = expected.media_uri;
    item.update_time = expected.update_time;
    item.expire_time = expected.expire_time;
    item.create_time = absl::UnixEpoch();  // Not taken.
    item.id = "b";
    return absl::OkStatus();
  }));
  Item read = MakeItem("a", 1);
  read.embedding.clear();
  read.parts.clear();
  ExpectSameItem(given, read);
  ExpectSameItem(GetWhole("a"), expected);
  EXPECT_GT(updated.sequence, before);
  EXPECT_EQ(GetWhole("a")->sequence, updated.sequence);
  expected.embedding.clear();
  expected.parts.clear();
  ExpectSameItem(updated, expected);
  EXPECT_FALSE(GetWhole("b").has_value());
  if (!GetParam().durable) return;
  Reopen();
  EXPECT_EQ(GetWhole("a")->payload, "other");
}

TEST_P(ItemStoreContract, AnUpdateThatFailsChangesNothing) {
  ASSERT_THAT(store_->Put({MakeItem("a")}), IsOk());
  const uint64_t before = store_->last_sequence();
  EXPECT_THAT(store_->Update("a",
                             [](Item& item) {
                               item.payload = "other";
                               return absl::AbortedError("no");
                             }),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Update("b", [](Item&) { return absl::OkStatus(); }),
              StatusIs(absl::StatusCode::kNotFound));
  ExpectSameItem(GetWhole("a"), MakeItem("a"));
  EXPECT_EQ(store_->last_sequence(), before);
  EXPECT_EQ(store_->count(), 1);
}

TEST_P(ItemStoreContract, ConcurrentUpdatesOfAnItemAllCount) {
  Item item = MakeItem("a");
  item.payload.clear();
  ASSERT_THAT(store_->Put({item}), IsOk());
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this] {
      for (int round = 0; round < kRounds; ++round) {
        EXPECT_THAT(store_->Update("a",
                                   [](Item& item) {
                                     item.payload.push_back('x');
                                     return absl::OkStatus();
                                   }),
                    IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(GetWhole("a")->payload.size(), size_t{kThreads} * kRounds);
}

TEST_P(ItemStoreContract, AnExpiredItemIsGoneForEveryCall) {
  const absl::Time end = clock_.Now() + absl::Seconds(10);
  ASSERT_THAT(store_->Put({MakeExpiring("a", end), MakeItem("b"),
                           MakeExpiring("c", end + absl::Nanoseconds(1))}),
              IsOk());
  const uint64_t a = GetWhole("a")->sequence;
  clock_.Advance(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_THAT(ScanIds(), testing::ElementsAre("a", "b", "c"));
  clock_.Advance(absl::Nanoseconds(1));
  EXPECT_FALSE(GetWhole("a").has_value());
  EXPECT_THAT(ScanIds(), testing::ElementsAre("b", "c"));
  EXPECT_THAT(store_->Update("a", [](Item&) { return absl::OkStatus(); }),
              StatusIs(absl::StatusCode::kNotFound));
  Item conditional = MakeItem("a", 1);
  conditional.if_sequence = a;
  EXPECT_THAT(ValueOrDie(store_->Put({conditional}))[0].status,
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(ValueOrDie(store_->Delete({"a", "b"})), 1);
  EXPECT_EQ(store_->count(), 1);
}

TEST_P(ItemStoreContract, AnExpiredItemIsGoneForWhoAsksForIdsAlone) {
  constexpr ItemParts kIds{
      .header = false, .payload = false, .embedding = false};
  const auto ids = [&] {
    std::vector<std::string> found;
    for (const auto& item : ValueOrDie(store_->Get({"a", "b", "c"}, kIds))) {
      if (item.has_value()) found.push_back(item->id);
    }
    return found;
  };
  const absl::Time end = clock_.Now() + absl::Seconds(10);
  ASSERT_THAT(store_->Put({MakeExpiring("c", end + absl::Seconds(10)),
                           MakeItem("a"), MakeItem("b")}),
              IsOk());
  EXPECT_THAT(ids(), testing::ElementsAre("a", "b", "c"));
  // The first to expire is not the first that was written.
  EXPECT_THAT(store_->Update("b",
                             [&](Item& item) {
                               item.expire_time = end;
                               return absl::OkStatus();
                             }),
              IsOk());
  EXPECT_THAT(ids(), testing::ElementsAre("a", "b", "c"));
  clock_.Advance(absl::Seconds(10));
  EXPECT_THAT(ids(), testing::ElementsAre("a", "c"));
  // A jump back brings none back.
  clock_.Advance(-absl::Seconds(5));
  EXPECT_THAT(ids(), testing::ElementsAre("a", "c"));
  if (!GetParam().durable) return;
  clock_.Advance(absl::Seconds(5));
  Reopen();
  EXPECT_THAT(ids(), testing::ElementsAre("a", "c"));
}

TEST_P(ItemStoreContract, AnExpiredIdIsNewAgain) {
  ASSERT_THAT(
      store_->Put({MakeExpiring("a", clock_.Now() + absl::Seconds(10))}),
      IsOk());
  clock_.Advance(absl::Seconds(10));
  EXPECT_THAT(Created(ValueOrDie(store_->Put({MakeItem("a", 2)}))),
              testing::ElementsAre(true));
  ExpectSameItem(GetWhole("a"), MakeItem("a", 2));
  EXPECT_EQ(store_->count(), 1);
  // The old time says nothing about the new item.
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)), testing::IsEmpty());
  ExpectSameItem(GetWhole("a"), MakeItem("a", 2));
}

TEST_P(ItemStoreContract, RemovesExpiredItemsStepByStepTheEarliestFirst) {
  const absl::Time now = clock_.Now();
  for (int i = 0; i < 5; ++i) {
    // Ids run against the times.
    ASSERT_THAT(store_->Put({MakeExpiring(absl::StrCat("e", 9 - i),
                                          now + absl::Seconds(i + 1))}),
                IsOk());
  }
  ASSERT_THAT(store_->Put({MakeItem("stays")}), IsOk());
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)), testing::IsEmpty());
  const uint64_t before = store_->last_sequence();
  clock_.Advance(absl::Seconds(4));
  std::string place;
  EXPECT_THAT(ValueOrDie(store_->ListExpired(&place, 3)),
              testing::ElementsAre("e9", "e8", "e7"));
  EXPECT_THAT(ValueOrDie(store_->ListExpired(&place, 3)),
              testing::ElementsAre("e6"));
  EXPECT_THAT(ValueOrDie(store_->ListExpired(&place, 3)), testing::IsEmpty());
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(3)),
              testing::UnorderedElementsAre("e9", "e8", "e7"));
  EXPECT_EQ(store_->count(), 3);
  EXPECT_EQ(Changes(before).size(), 3u);
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(3)), testing::ElementsAre("e6"));
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(3)), testing::IsEmpty());
  if (GetParam().durable) Reopen();
  EXPECT_THAT(ScanIds(), testing::ElementsAre("e5", "stays"));
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(3)), testing::ElementsAre("e5"));
  EXPECT_EQ(store_->count(), 1);
}

TEST_P(ItemStoreContract, ATimeThatWasChangedIsTheOneThatCounts) {
  const absl::Time now = clock_.Now();
  ASSERT_THAT(store_->Put({MakeExpiring("longer", now + absl::Seconds(1)),
                           MakeExpiring("forever", now + absl::Seconds(1)),
                           MakeExpiring("shorter", now + absl::Hours(9))}),
              IsOk());
  const auto set = [this](const std::string& id,
                          std::optional<absl::Time> time) {
    EXPECT_THAT(store_->Update(id,
                               [time](Item& item) {
                                 item.expire_time = time;
                                 return absl::OkStatus();
                               }),
                IsOk());
  };
  set("longer", now + absl::Hours(9));
  set("forever", std::nullopt);
  set("shorter", now + absl::Seconds(1));
  clock_.Advance(absl::Hours(1));
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)),
              testing::ElementsAre("shorter"));
  EXPECT_THAT(ScanIds(), testing::ElementsAre("forever", "longer"));
}

TEST_P(ItemStoreContract, AClockThatJumpsBackBringsNothingBackAndTakesNothing) {
  const absl::Time now = clock_.Now();
  ASSERT_THAT(store_->Put({MakeExpiring("gone", now + absl::Seconds(5)),
                           MakeExpiring("later", now + absl::Hours(30))}),
              IsOk());
  clock_.Advance(absl::Hours(10));
  EXPECT_FALSE(GetWhole("gone").has_value());
  clock_.Advance(-absl::Hours(10));  // The clock was wrong.
  EXPECT_FALSE(GetWhole("gone").has_value());
  EXPECT_THAT(ScanIds(), testing::ElementsAre("later"));
  // Written after the jump: it lives by the clock as it is now.
  ASSERT_THAT(store_->Put({MakeExpiring("fresh", now + absl::Seconds(5))}),
              IsOk());
  EXPECT_TRUE(GetWhole("fresh").has_value());
  // A second jump, further forward and back.
  clock_.Advance(absl::Seconds(5));
  EXPECT_FALSE(GetWhole("fresh").has_value());
  clock_.Advance(-absl::Seconds(5));
  EXPECT_FALSE(GetWhole("fresh").has_value());
  ASSERT_THAT(store_->Put({MakeExpiring("newest", now + absl::Seconds(5))}),
              IsOk());
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)),
              testing::UnorderedElementsAre("gone", "fresh"));
  EXPECT_THAT(ScanIds(), testing::ElementsAre("later", "newest"));
  clock_.Advance(absl::Seconds(5));
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)),
              testing::ElementsAre("newest"));
  clock_.Advance(absl::Hours(30));
  EXPECT_THAT(ValueOrDie(store_->RemoveExpired(10)),
              testing::ElementsAre("later"));
  EXPECT_EQ(store_->count(), 0);
}

TEST_P(ItemStoreContract, TakesWritesWhileAllIsWell) {
  EXPECT_THAT(store_->write_status(), IsOk());
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
  ASSERT_THAT(store_->Scan("", kWhole,
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
  for (int i = 0; i < 300; ++i) {
    const auto found = ValueOrDie(store_->Get({"a", "b"}, kWhole));
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

TEST_P(ItemStoreContract, ACheckpointIsTheStoreAsItWas) {
  ASSERT_THAT(store_->Put(MakeItems("m", 300)), IsOk());
  ASSERT_THAT(store_->Put({MakeItem("m00007", 5)}), IsOk());
  ASSERT_THAT(store_->Delete({"m00009"}), IsOk());
  const std::string copy = directory_.File("copy");
  ASSERT_THAT(store_->Checkpoint(copy), IsOk());
  // The folder is there now.
  EXPECT_EQ(store_->Checkpoint(copy).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_THAT(store_->Put({MakeItem("later"), MakeItem("m00003", 9)}), IsOk());
  ASSERT_THAT(store_->Delete({"m00001"}), IsOk());

  store_ = GetParam().open(copy, kDimension, &clock_);
  EXPECT_EQ(store_->count(), 299);
  EXPECT_THAT(ScanIds("m00298"), testing::ElementsAre("m00299"));
  Item changed = MakeItem("m00007", 5);
  changed.create_time = MakeItem("m00007").create_time;
  ExpectSameItem(GetWhole("m00007"), changed);
  ExpectSameItem(GetWhole("m00001"), MakeItem("m00001"));
  ExpectSameItem(GetWhole("m00003"), MakeItem("m00003"));
  // A store like any other: what is written to it does not reach the first one.
  ASSERT_THAT(store_->Put({MakeItem("only here")}), IsOk());
  Reopen();
  EXPECT_FALSE(GetWhole("only here").has_value());
}

// Every Put() writes one item of each pair, so a pair is never split.
TEST_P(ItemStoreContract, ACheckpointUnderWritesHasAllOfAPutOrNothing) {
  std::atomic<int> acknowledged = 0;
  std::atomic<bool> stop = false;
  std::thread writer([this, &acknowledged, &stop] {
    for (int i = 0; !stop; ++i) {
      EXPECT_THAT(store_->Put({MakeItem(absl::StrFormat("a%05d", i)),
                               MakeItem(absl::StrFormat("b%05d", i))}),
                  IsOk());
      ++acknowledged;
    }
  });
  std::vector<int> before;
  for (int copy = 0; copy < 3; ++copy) {
    while (acknowledged < 20 * (copy + 1)) std::this_thread::yield();
    before.push_back(acknowledged);
    EXPECT_THAT(store_->Checkpoint(directory_.File(absl::StrCat("copy", copy))),
                IsOk());
  }
  stop = true;
  writer.join();
  for (int copy = 0; copy < 3; ++copy) {
    store_ = GetParam().open(directory_.File(absl::StrCat("copy", copy)),
                             kDimension, &clock_);
    std::vector<std::string> ids = ScanIds();
    EXPECT_EQ(static_cast<int64_t>(ids.size()), store_->count());
    ASSERT_EQ(ids.size() % 2, 0U);
    const size_t pairs = ids.size() / 2;
    EXPECT_GE(static_cast<int>(pairs), before[copy]);
    for (size_t i = 0; i < pairs; ++i) {
      ASSERT_EQ(ids[i], absl::StrFormat("a%05d", i));
      ASSERT_EQ(ids[pairs + i], absl::StrFormat("b%05d", i));
    }
  }
}

}  // namespace quern
