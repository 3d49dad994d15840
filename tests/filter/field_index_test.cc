#include "engine/filter/field_index.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

// The oracle is Matches(), item by item.

namespace quern {
namespace {

const std::vector<FieldDeclaration>& Fields() {
  static const auto* fields = new std::vector<FieldDeclaration>{
      {"lang", FieldType::kString},
      {"year", FieldType::kNumber},
      {"public", FieldType::kBool},
      {"taken", FieldType::kTimestamp},
      {"tags", FieldType::kString, /*repeated=*/true},
      {"scores", FieldType::kNumber, /*repeated=*/true},
  };
  return *fields;
}

using Random = std::mt19937;
using Items = std::map<uint32_t, FieldValues>;

int Pick(Random& random, int below) {
  return static_cast<int>(random() % static_cast<uint32_t>(below));
}

// `distinct` values of each type, in no order; some are the ends of prefixes.
FieldValue RandomValue(Random& random, FieldType type, int distinct) {
  const int n = Pick(random, distinct);
  switch (type) {
    case FieldType::kNumber:
      return n * 0.5 - 1;
    case FieldType::kBool:
      return n % 2 == 0;
    case FieldType::kTimestamp:
      return absl::FromUnixSeconds(-1000) + absl::Milliseconds(700) * n;
    default:
      return absl::StrCat(n % 7 == 0   ? "\xFF"
                          : n % 5 == 0 ? "é"
                                       : "a",
                          std::string(n % 3, '\xFF'), n);
  }
}

FieldValues RandomItem(Random& random, int distinct) {
  FieldValues item{.modality = Pick(random, 3)};
  for (uint32_t field = 0; field < Fields().size(); ++field) {
    const int values = Pick(random, Fields()[field].repeated ? 4 : 2);
    for (int i = 0; i < values; ++i) {
      item.entries.push_back(
          {field, RandomValue(random, Fields()[field].type, distinct)});
    }
  }
  return item;
}

FilterNode RandomComparison(Random& random, int distinct) {
  FilterNode node;
  node.field = Pick(random, static_cast<int>(Fields().size()));
  const FieldType type = Fields()[node.field].type;
  std::vector<FilterOp> ops = {FilterOp::kEqual, FilterOp::kIn,
                               FilterOp::kPresent};
  if (type == FieldType::kString) ops.push_back(FilterOp::kPrefix);
  if (!Fields()[node.field].repeated && type != FieldType::kBool) {
    ops.insert(ops.end(), {FilterOp::kLess, FilterOp::kLessEqual,
                           FilterOp::kGreater, FilterOp::kGreaterEqual});
  }
  node.op = ops[Pick(random, static_cast<int>(ops.size()))];
  if (node.op == FilterOp::kPresent) return node;
  node.values.push_back(RandomValue(random, type, distinct));
  if (node.op == FilterOp::kPrefix) {
    auto& prefix = std::get<std::string>(node.values[0]);
    prefix.resize(Pick(random, static_cast<int>(prefix.size()) + 1));
  } else if (node.op == FilterOp::kIn) {
    for (int i = 0; i < 3; ++i) {
      node.values.push_back(RandomValue(random, type, distinct));
    }
    std::sort(node.values.begin(), node.values.end());
    node.values.erase(std::unique(node.values.begin(), node.values.end()),
                      node.values.end());
    if (node.values.size() == 1) node.op = FilterOp::kEqual;
  }
  return node;
}

FilterNode RandomNode(Random& random, int distinct, int depth) {
  const int kind = depth == 0 ? 3 : Pick(random, 6);
  if (kind >= 3) return RandomComparison(random, distinct);
  FilterNode node{.op = kind == 0   ? FilterOp::kAnd
                        : kind == 1 ? FilterOp::kOr
                                    : FilterOp::kNot};
  const int children = node.op == FilterOp::kNot ? 1 : 2 + Pick(random, 2);
  for (int i = 0; i < children; ++i) {
    node.children.push_back(RandomNode(random, distinct, depth - 1));
  }
  return node;
}

std::vector<uint32_t> Rows(const RowSet& set) {
  std::vector<uint32_t> rows;
  set.ForEach([&rows](uint32_t row) { rows.push_back(row); });
  return rows;
}

std::vector<uint32_t> BruteForce(const Items& items, const Filter* filter,
                                 const std::vector<int32_t>& modalities) {
  std::vector<uint32_t> rows;
  for (const auto& [row, item] : items) {
    const bool wanted =
        modalities.empty() || std::find(modalities.begin(), modalities.end(),
                                        item.modality) != modalities.end();
    if (wanted && (filter == nullptr || Matches(*filter, item))) {
      rows.push_back(row);
    }
  }
  return rows;
}

void ExpectEqual(const FieldIndex& index, const Items& items,
                 const Filter* filter, const std::vector<int32_t>& modalities) {
  const std::vector<uint32_t> expected = BruteForce(items, filter, modalities);
  ASSERT_EQ(Rows(index.Match(filter, modalities)), expected)
      << (filter == nullptr ? "everything" : filter->DebugString());
  ASSERT_GE(index.Estimate(filter, modalities),
            static_cast<int64_t>(expected.size()))
      << (filter == nullptr ? "everything" : filter->DebugString());
}

void CheckAgainstOracle(Random& random, const FieldIndex& index,
                        const Items& items, int distinct, int filters) {
  ExpectEqual(index, items, nullptr, {});
  ExpectEqual(index, items, nullptr, {0, 2, 9});
  for (int i = 0; i < filters; ++i) {
    const Filter filter(Fields(), RandomNode(random, distinct, 4));
    ExpectEqual(index, items, &filter, {});
    ExpectEqual(index, items, &filter, {1});
  }
}

std::string Bytes(const FieldIndex& index) {
  return FieldIndexWriter(index).Take();
}

TEST(FieldIndexTest, MatchesWhatTheItemsMatch) {
  Random random(1);
  for (const int distinct : {2, 30, 1000}) {
    FieldIndex index(Fields());
    Items items;
    for (uint32_t row = 0; row < 400; ++row) {
      // Rows far apart, not in order.
      const uint32_t number = row * 2654435761U;
      items[number] = RandomItem(random, distinct);
      index.Add(number, items[number]);
    }
    CheckAgainstOracle(random, index, items, distinct, 300);
  }
}

TEST(FieldIndexTest, IsEmptyAtFirst) {
  const FieldIndex index(Fields());
  Random random(2);
  CheckAgainstOracle(random, index, {}, 10, 50);
  EXPECT_EQ(index.Estimate(nullptr, {}), 0);
}

// Enough values for many groups, and enough removals for several sweeps.
TEST(FieldIndexTest, StaysExactWhileRowsComeAndGo) {
  constexpr int kDistinct = 30000;
  Random random(3);
  FieldIndex index(Fields());
  Items items;
  uint32_t next = 0;
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < 12000; ++i) {
      items[next] = RandomItem(random, kDistinct);
      index.Add(next, items[next]);
      ++next;
    }
    for (int i = 0; i < 9000; ++i) {
      const auto victim = items.lower_bound(random() % next);
      if (victim == items.end()) continue;
      index.Remove(victim->first);
      index.Remove(victim->first);  // Nothing happens.
      items.erase(victim);
    }
    CheckAgainstOracle(random, index, items, kDistinct, 15);
  }
  while (items.size() > 100) {
    index.Remove(items.begin()->first);
    items.erase(items.begin());
  }
  CheckAgainstOracle(random, index, items, kDistinct, 15);
  const auto parsed = FieldIndex::Parse(Bytes(index));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  CheckAgainstOracle(random, *parsed, items, kDistinct, 15);
}

// What comes and goes between the steps of a writer, values and whole groups of
// them, is none of its matters.
TEST(FieldIndexTest, IsWrittenAsItWasWhenTheWriterBegan) {
  constexpr int kDistinct = 30'000;
  Random random(9);
  FieldIndex index(Fields());
  Items items;
  uint32_t next = 0;
  const auto add = [&] {
    items[next] = RandomItem(random, kDistinct);
    index.Add(next, items[next]);
    ++next;
  };
  const auto remove = [&](uint32_t row) {
    index.Remove(row);
    items.erase(row);
  };
  while (next < 40'000) add();
  for (uint32_t row = 0; row < 3000; ++row) remove(row);  // Not swept yet.
  const Items before = items;
  FieldIndexWriter writer(index);
  int steps = 0;
  while (writer.Step()) {
    ++steps;
    for (int i = 0; i < 100; ++i) add();
    for (int i = 0; i < 200; ++i) remove(random() % next);
  }
  EXPECT_GT(steps, 30);
  auto parsed = FieldIndex::Parse(writer.Take());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rows().size(), static_cast<int64_t>(before.size()));
  Items both;
  RowSet rows;
  for (const auto& [row, item] : before) {
    if (!items.contains(row)) continue;
    both[row] = item;
    rows.Add(row);
  }
  ASSERT_LT(both.size(), before.size());
  parsed->KeepOnly(rows);
  CheckAgainstOracle(random, *parsed, both, kDistinct, 30);
}

TEST(FieldIndexTest, KeepsTheRowsThatItIsToldTo) {
  constexpr int kDistinct = 3000;
  Random random(7);
  FieldIndex index(Fields());
  Items items;
  RowSet kept;
  kept.Add(1'000'000);  // That it does not have stays out.
  for (uint32_t row = 0; row < 30'000; ++row) {
    const FieldValues item = RandomItem(random, kDistinct);
    index.Add(row, item);
    if (row % 3 != 0) continue;
    items[row] = item;
    kept.Add(row);
  }
  index.KeepOnly(kept);
  CheckAgainstOracle(random, index, items, kDistinct, 20);
  // Sweeps what was dropped, too.
  for (uint32_t row = 0; row < 3'000; ++row) {
    index.Remove(row);
    items.erase(row);
  }
  CheckAgainstOracle(random, index, items, kDistinct, 20);
  index.KeepOnly({});
  CheckAgainstOracle(random, index, {}, kDistinct, 20);
}

// Rising values split groups at the end only, equal ones make bitmaps.
TEST(FieldIndexTest, TakesRisingAndEqualValues) {
  FieldIndex index(Fields());
  Items items;
  for (uint32_t row = 0; row < 20000; ++row) {
    items[row].entries = {{0, std::string(row % 3 == 0 ? "de" : "en")},
                          {1, static_cast<double>(row)}};
    index.Add(row, items[row]);
  }
  for (const absl::string_view text :
       {"year < 0", "year <= 0", "year < 4096", "year >= 2048 AND year < 6144",
        "year > 19998", "year > 19999", "year:*", "lang = de AND year >= 10000",
        "lang = \"*\"", "lang = \"d*\"", "lang != en", "taken:*"}) {
    const auto filter = ParseFilter(text, Fields());
    ASSERT_TRUE(filter.ok()) << filter.status();
    ExpectEqual(index, items, filter->get(), {});
  }
}

TEST(FieldIndexTest, EstimatesEqualityExactly) {
  FieldIndex index(Fields());
  for (uint32_t row = 0; row < 1000; ++row) {
    index.Add(row, {.entries = {{0, std::string(row < 10 ? "rare" : "often")},
                                {1, static_cast<double>(row % 50)}}});
  }
  const auto estimate = [&index](absl::string_view text) {
    return index.Estimate(ParseFilter(text, Fields())->get(), {});
  };
  EXPECT_EQ(estimate("lang = rare"), 10);
  EXPECT_EQ(estimate("lang != rare"), 990);
  EXPECT_EQ(estimate("lang = other"), 0);
  EXPECT_EQ(estimate("lang = rare AND year < 5"), 10);
  EXPECT_EQ(estimate("lang = rare OR lang = often"), 1000);
  EXPECT_EQ(estimate("year < 10"), 200);
  EXPECT_EQ(estimate("NOT (lang = often AND year:*)"), 10);
  EXPECT_EQ(estimate("taken:*"), 0);
}

TEST(FieldIndexTest, LeavesOutValuesThatAreNotDeclared) {
  FieldIndex index(Fields());
  index.Add(7, {.entries = {{0, FieldValue(1.0)}, {99, FieldValue(true)}}});
  EXPECT_EQ(Rows(index.Match(nullptr, {})), std::vector<uint32_t>{7});
  EXPECT_TRUE(index.Match(ParseFilter("lang:*", Fields())->get(), {}).empty());
  // A filter over other declarations finds nothing, whatever it says.
  const Filter other(Fields(), {.op = FilterOp::kPresent, .field = 99});
  EXPECT_TRUE(index.Match(&other, {}).empty());
}

TEST(FieldIndexTest, ComesBackFromBytes) {
  Random random(4);
  for (const int distinct : {2, 20000}) {
    FieldIndex index(Fields());
    Items items;
    for (uint32_t row = 0; row < 15000; ++row) {
      const FieldValues item = RandomItem(random, distinct);
      index.Add(row, item);
      if (row % 4 == 0) {
        index.Remove(row);
      } else {
        items[row] = item;
      }
    }
    const std::string bytes = Bytes(index);
    auto parsed = FieldIndex::Parse(bytes);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(Bytes(*parsed), bytes);
    EXPECT_EQ(parsed->fields()[4].path, "tags");
    EXPECT_TRUE(parsed->fields()[4].repeated);
    CheckAgainstOracle(random, *parsed, items, distinct, 20);
    for (uint32_t row = 20000; row < 20500; ++row) {
      items[row] = RandomItem(random, distinct);
      parsed->Add(row, items[row]);
    }
    CheckAgainstOracle(random, *parsed, items, distinct, 20);
  }
}

TEST(FieldIndexTest, RefusesDamagedBytes) {
  Random random(5);
  FieldIndex index(Fields());
  for (uint32_t row = 0; row < 30; ++row) {
    index.Add(row * 3, RandomItem(random, 10));
  }
  const std::string bytes = Bytes(index);
  ASSERT_TRUE(FieldIndex::Parse(bytes).ok());
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(FieldIndex::Parse(bytes.substr(0, i)).status().code(),
              absl::StatusCode::kDataLoss);
    for (const int bit : {0, 3, 7}) {
      std::string bad = bytes;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      EXPECT_EQ(FieldIndex::Parse(bad).status().code(),
                absl::StatusCode::kDataLoss)
          << i;
    }
  }
  EXPECT_FALSE(FieldIndex::Parse(bytes + "x").ok());
}

TEST(FieldIndexTest, RefusesRowsFromTheLimitOn) {
  FieldIndex index(Fields());
  index.Add(99, {});
  EXPECT_TRUE(FieldIndex::Parse(Bytes(index), 100).ok());
  EXPECT_EQ(FieldIndex::Parse(Bytes(index), 99).status().code(),
            absl::StatusCode::kDataLoss);
  index.Add(UINT32_MAX, {});
  EXPECT_TRUE(FieldIndex::Parse(Bytes(index)).ok());
}

// What is parsed comes back as an equal tree from its canonical text.
TEST(FieldIndexTest, RandomFiltersSurviveTheirText) {
  Random random(6);
  int parsed = 0;
  for (int i = 0; i < 2000; ++i) {
    FilterNode root = RandomNode(random, 1000, 5);
    const Filter filter(Fields(), std::move(root));
    const auto again = ParseFilter(filter.DebugString(), Fields());
    // Texts of the items may be no UTF-8, which no filter can be.
    if (!again.ok()) {
      ASSERT_EQ(again.status().message(), "filter: is not UTF-8");
      continue;
    }
    ++parsed;
    ASSERT_EQ((*again)->root(), filter.root()) << filter.DebugString();
    ASSERT_EQ((*again)->DebugString(), filter.DebugString());
  }
  EXPECT_GT(parsed, 500);
}

}  // namespace
}  // namespace quern
