#include "engine/filter/row_set.h"

#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

using Rows = std::set<uint32_t>;

RowSet Of(const Rows& rows) {
  RowSet set;
  for (const uint32_t row : rows) set.Add(row);
  return set;
}

Rows RowsOf(const RowSet& set) {
  Rows rows;
  set.ForEach([&rows](uint32_t row) { rows.insert(rows.end(), row); });
  return rows;
}

// Sets of every kind of container: none, few, many, runs, all over.
std::vector<Rows> Examples() {
  std::vector<Rows> examples = {{}, {0}, {UINT32_MAX}, {5, 65535, 65536}};
  std::mt19937 random(1);
  for (const int count : {100, 30000}) {
    Rows rows;
    for (int i = 0; i < count; ++i) rows.insert(random() % 150000);
    examples.push_back(rows);
  }
  Rows runs;
  for (uint32_t row = 1000; row < 90000; ++row) {
    if (row % 1000 != 0) runs.insert(row);
  }
  examples.push_back(runs);
  return examples;
}

TEST(RowSetTest, BehavesAsASet) {
  for (const Rows& a : Examples()) {
    const RowSet set = Of(a);
    EXPECT_EQ(RowsOf(set), a);
    EXPECT_EQ(set.size(), static_cast<int64_t>(a.size()));
    EXPECT_EQ(set.empty(), a.empty());
    for (const uint32_t row : {0U, 5U, 1000U, 65535U, UINT32_MAX}) {
      EXPECT_EQ(set.Contains(row), a.contains(row));
    }
    for (const Rows& b : Examples()) {
      Rows both;
      Rows any = a;
      Rows rest;
      for (const uint32_t row : a) (b.contains(row) ? both : rest).insert(row);
      any.insert(b.begin(), b.end());
      EXPECT_EQ(RowsOf(RowSet(set) &= Of(b)), both);
      EXPECT_EQ(RowsOf(RowSet(set) |= Of(b)), any);
      EXPECT_EQ(RowsOf(RowSet(set) -= Of(b)), rest);
      EXPECT_EQ(set == Of(b), a == b);
      EXPECT_EQ(set.IsSubsetOf(Of(b)), rest.empty());
      const RowSet other = Of(b);
      EXPECT_EQ(RowsOf(RowSet::UnionOf({&set, &other, &set})), any);
    }
  }
  EXPECT_TRUE(RowSet::UnionOf({}).empty());
}

TEST(RowSetTest, WorksOnItself) {
  RowSet set = Of({1, 2});
  const RowSet& same = set;
  set |= same;
  set &= same;
  EXPECT_EQ(RowsOf(set), (Rows{1, 2}));
  set -= same;
  EXPECT_TRUE(set.empty());
}

TEST(RowSetTest, MovedFromIsEmpty) {
  RowSet set = Of({1, 2});
  const RowSet other = std::move(set);
  EXPECT_EQ(other.size(), 2);
  EXPECT_TRUE(set.empty());  // NOLINT(bugprone-use-after-move): what is tested
  set.Add(3);                // NOLINT(clang-analyzer-cplusplus.Move): likewise
  EXPECT_EQ(RowsOf(set), Rows{3});
}

TEST(RowSetTest, RemovesRows) {
  RowSet set = Of({1, 2});
  EXPECT_TRUE(set.Remove(1));
  EXPECT_FALSE(set.Remove(1));
  EXPECT_FALSE(RowSet().Remove(1));
  EXPECT_EQ(RowsOf(set), Rows{2});
}

TEST(RowSetTest, SetsBits) {
  for (const Rows& rows : Examples()) {
    // Whole containers, a part of one, and none.
    for (const size_t words : {2048U, 1500U, 17U, 0U}) {
      std::vector<uint64_t> bits(words, ~uint64_t{0});
      RowSet set;
      for (const uint32_t row : rows) set.AddRange(row, row);
      set.ToBitset(absl::MakeSpan(bits));
      for (uint32_t row = 0; row < words * 64; ++row) {
        ASSERT_EQ((bits[row / 64] >> (row % 64)) & 1, rows.contains(row))
            << row << " of " << words;
      }
    }
  }
  // Runs as CRoaring makes them.
  RowSet run;
  run.AddRange(100, 65700);
  std::vector<uint64_t> bits(1100);
  run.ToBitset(absl::MakeSpan(bits));
  for (uint32_t row = 0; row < bits.size() * 64; ++row) {
    ASSERT_EQ((bits[row / 64] >> (row % 64)) & 1, row >= 100 && row <= 65700);
  }
}

TEST(RowSetTest, BitsAreThoseOfItsRows) {
  for (const Rows& rows : Examples()) {
    const RowSet set = Of(rows);
    const RowBits bits = set.Bits();
    for (const uint32_t row : rows) {
      EXPECT_TRUE(bits.Contains(row));
      EXPECT_EQ(bits.Contains(row + 1), set.Contains(row + 1)) << row;
      EXPECT_EQ(bits.Contains(row - 1), set.Contains(row - 1)) << row;
    }
    EXPECT_EQ(bits.Contains(UINT32_MAX), set.Contains(UINT32_MAX));
    const auto between = [&bits](uint32_t first, uint32_t last) {
      std::vector<uint32_t> found;
      bits.ForEachBetween(first, last,
                          [&](uint32_t row) { found.push_back(row); });
      return found;
    };
    using testing::ElementsAreArray;
    EXPECT_THAT(between(0, UINT32_MAX), ElementsAreArray(rows));
    for (const auto& [first, last] :
         {std::pair<uint32_t, uint32_t>{3, 70'000}, {65'536, 65'536}, {9, 8}}) {
      const auto begin = rows.lower_bound(first);
      const auto end = rows.upper_bound(last);
      EXPECT_THAT(between(first, last),
                  ElementsAreArray(first > last ? Rows() : Rows(begin, end)));
    }
  }
}

TEST(RowSetTest, BitsOfFewHighRowsAreSmall) {
  RowSet set;
  for (uint32_t row = 0; row < 1000; ++row) set.Add(UINT32_MAX - row);
  EXPECT_LT(set.Bits().memory_bytes(), 1 << 20);
}

TEST(RowSetTest, ComesBackFromBytes) {
  for (const Rows& rows : Examples()) {
    std::string bytes;
    Of(rows).AppendTo(bytes);
    bytes += "rest";
    absl::string_view left = bytes;
    RowSet set;
    ASSERT_TRUE(RowSet::Take(left, uint64_t{1} << 32, set));
    EXPECT_EQ(RowsOf(set), rows);
    EXPECT_EQ(left, "rest");
    if (rows.empty()) continue;
    left = bytes;
    EXPECT_FALSE(RowSet::Take(left, *rows.rbegin(), set));
    left = absl::string_view(bytes).substr(0, bytes.size() - 5);
    EXPECT_FALSE(RowSet::Take(left, uint64_t{1} << 32, set));
  }
}

TEST(RowSetTest, SingleRowHasTheBytesOfASetOfOne) {
  for (const uint32_t row : {0U, 127U, 65536U, UINT32_MAX}) {
    std::string expected;
    Of({row}).AppendTo(expected);
    std::string bytes;
    AppendSingleRow(row, bytes);
    EXPECT_EQ(bytes, expected);
    absl::string_view left = bytes;
    EXPECT_EQ(TakeSingleRow(left), row);
    EXPECT_TRUE(left.empty());
  }
  for (const Rows& rows : {Rows{}, Rows{1, 2}, Rows{1, 3}}) {
    std::string bytes;
    Of(rows).AppendTo(bytes);
    absl::string_view left = bytes;
    EXPECT_FALSE(TakeSingleRow(left).has_value());
    EXPECT_EQ(left, bytes);
  }
}

TEST(RowSetTest, RefusesBytesThatAreNoRows) {
  for (const absl::string_view bytes :
       {absl::string_view(""), absl::string_view("\x01"),
        absl::string_view("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
        absl::string_view("\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x05"),
        absl::string_view("\x01\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"),
        absl::string_view("\x02\x00\x80\x80\x80\x80\x20", 7)}) {
    absl::string_view left = bytes;
    RowSet set;
    EXPECT_FALSE(RowSet::Take(left, uint64_t{1} << 32, set));
  }
}

}  // namespace
}  // namespace quern
