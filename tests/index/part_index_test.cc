#include "engine/index/part_index.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/support/random_rows.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kDimension = 40;  // No multiple of a row's padding.
constexpr int32_t kPicture = 1;
constexpr int32_t kVideo = 2;

const RealClock kClock;

std::vector<FieldDeclaration> Fields() {
  return {{.path = "n", .type = FieldType::kNumber}};
}

FieldValues Values(int32_t modality, double n) {
  return {.entries = {{.field = 0, .value = n}}, .modality = modality};
}

std::shared_ptr<const Filter> Parsed(const std::string& text) {
  return ValueOrDie(ParseFilter(text, Fields()));
}

// `row` in 127 steps of its largest number, as the index keeps it.
std::vector<double> InSteps(absl::Span<const float> row) {
  float largest = 0;
  for (const float value : row) largest = std::max(largest, std::abs(value));
  std::vector<double> kept;
  for (const float value : row) {
    const double step = double{largest} / 127;
    kept.push_back(largest > 0 ? step * std::round(value / step) : 0);
  }
  return kept;
}

Matrix UnitRows(int64_t rows, uint32_t seed) {
  Matrix matrix = RandomRows(rows, kDimension, seed);
  for (int64_t i = 0; i < rows; ++i) {
    double squares = 0;
    for (const float value : matrix.row(i)) squares += double{value} * value;
    for (float& value : matrix.row(i)) {
      value = static_cast<float>(value / std::sqrt(squares));
    }
  }
  return matrix;
}

std::vector<std::string> Ids(const std::vector<ScoredId>& found) {
  std::vector<std::string> ids;
  for (const ScoredId& item : found) ids.push_back(item.id);
  return ids;
}

// What an index should hold, compared row by row in double precision.
class Oracle {
 public:
  struct Item {
    Matrix rows;
    FieldValues fields;
  };

  std::map<std::string, Item> items;

  std::vector<ScoredId> Search(absl::Span<const float> query,
                               const PartIndexQuery& options) const {
    const std::vector<double> kept_query = InSteps(query);
    std::vector<ScoredId> found;
    for (const auto& [id, item] : items) {
      if (!IsWanted(item, options)) continue;
      double best = -std::numeric_limits<double>::infinity();
      for (int64_t i = 0; i < item.rows.rows(); ++i) {
        const std::vector<double> kept = InSteps(item.rows.row(i));
        double product = 0;
        for (size_t d = 0; d < kept.size(); ++d) {
          product += kept[d] * kept_query[d];
        }
        best = std::max(best, product);
      }
      if (item.rows.rows() > 0) found.push_back({id, static_cast<float>(best)});
    }
    std::stable_sort(
        found.begin(), found.end(),
        [](const ScoredId& a, const ScoredId& b) { return a.score > b.score; });
    if (static_cast<int64_t>(found.size()) > options.k) {
      found.resize(options.k);
    }
    return found;
  }

  PartIndexStats Stats(const PartIndexQuery& options) const {
    PartIndexStats stats;
    for (const auto& [id, item] : items) {
      if (!IsWanted(item, options)) continue;
      ++stats.items;
      stats.without_parts += item.rows.rows() == 0 ? 1 : 0;
      stats.parts += item.rows.rows();
    }
    return stats;
  }

 private:
  static bool IsWanted(const Item& item, const PartIndexQuery& options) {
    const auto& modalities = options.modalities;
    return (options.filter == nullptr ||
            Matches(*options.filter, item.fields)) &&
           (modalities.empty() ||
            std::find(modalities.begin(), modalities.end(),
                      item.fields.modality) != modalities.end());
  }
};

class PartIndexTest : public testing::Test {
 protected:
  static PartIndexOptions Options() {
    return {.dimension = kDimension, .fields = Fields(), .chunk_rows = 16};
  }

  std::vector<ScoredId> Search(const PartIndex& index,
                               absl::Span<const float> query,
                               const PartIndexQuery& options = {}) {
    return ValueOrDie(index.Search(context_, query, options, &stats_));
  }

  void ExpectAsOracle(const PartIndex& index, const Oracle& oracle,
                      absl::Span<const float> query,
                      const PartIndexQuery& options) {
    const std::vector<ScoredId> found = Search(index, query, options);
    const std::vector<ScoredId> expected = oracle.Search(query, options);
    ASSERT_EQ(Ids(found), Ids(expected));
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i].score, expected[i].score, 1e-5) << found[i].id;
    }
    const PartIndexStats stats = oracle.Stats(options);
    EXPECT_EQ(stats_.items, stats.items);
    EXPECT_EQ(stats_.without_parts, stats.without_parts);
    EXPECT_EQ(stats_.parts, stats.parts);
  }

  RequestContext context_{&kClock, "test"};
  PartIndexStats stats_;
};

// Writes of every kind in one order, searched with and without a crew.
TEST_F(PartIndexTest, EqualsBruteForceAfterWhateverWasWritten) {
  std::mt19937 random(7);
  const auto below = [&random](uint32_t n) { return random() % n; };
  PartIndex alone(Options());
  PartIndexOptions helped = Options();
  helped.crew = std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 2});
  helped.min_crew_bytes = 0;
  PartIndex crewed(std::move(helped));
  Oracle oracle;
  const std::vector<std::string> filters = {"", "n >= 5", "NOT n < 3", "n = 7",
                                            "n > 100"};
  const std::vector<std::vector<int32_t>> kinds = {{}, {kPicture}, {kVideo}};
  for (uint32_t round = 0; round < 300; ++round) {
    const std::string id = absl::StrCat("item", below(60));
    const uint32_t act = below(10);
    if (act < 7) {
      std::vector<Oracle::Item> items;
      std::vector<std::string> ids;
      for (uint32_t i = 0; i <= below(4); ++i) {
        ids.push_back(absl::StrCat("item", below(60)));
        // Now and then without parts, and more than fit into a chunk.
        const int64_t rows = below(20) == 0 ? 21 : below(7);
        // Of few seeds: some items are alike, and tie.
        items.push_back({UnitRows(rows, below(200)),
                         Values(below(2) == 0 ? kPicture : kVideo, below(10))});
        oracle.items.insert_or_assign(ids.back(), items.back());
      }
      std::vector<PartRows> added;
      for (size_t i = 0; i < ids.size(); ++i) {
        added.push_back({.id = ids[i],
                         .rows = items[i].rows.view(),
                         .fields = items[i].fields});
      }
      ASSERT_THAT(alone.Upsert(added), IsOk());
      ASSERT_THAT(crewed.Upsert(added), IsOk());
    } else if (act < 9) {
      const std::vector<std::string> ids = {id, "unknown"};
      alone.Remove(ids);
      crewed.Remove(ids);
      oracle.items.erase(id);
    } else if (const auto item = oracle.items.find(id);
               item != oracle.items.end()) {
      item->second.fields = Values(item->second.fields.modality, 7);
      ASSERT_THAT(alone.SetFields(id, item->second.fields), IsOk());
      ASSERT_THAT(crewed.SetFields(id, item->second.fields), IsOk());
    }
    const Matrix query = UnitRows(1, 1000 + round);
    const PartIndexQuery options = {
        .k = static_cast<int64_t>(below(3) == 0 ? 1000 : 1 + below(8)),
        .filter = Parsed(filters[below(filters.size())]),
        .modalities = kinds[below(kinds.size())]};
    ExpectAsOracle(alone, oracle, query.row(0), options);
    ExpectAsOracle(crewed, oracle, query.row(0), options);
    ASSERT_FALSE(HasFailure()) << "in round " << round;
    EXPECT_EQ(alone.items(), static_cast<int64_t>(oracle.items.size()));
    EXPECT_EQ(alone.parts(), oracle.Stats({}).parts);
  }
}

TEST_F(PartIndexTest, TheBestPartCountsAndTiesGoById) {
  PartIndex index(Options());
  const Matrix rows = UnitRows(3, 1);
  const auto part = [&rows](int64_t first, int64_t count) {
    return MatrixView{
        .data = rows.row(first).data(), .rows = count, .columns = kDimension};
  };
  ASSERT_THAT(index.Upsert({{.id = "c", .rows = part(0, 3)},
                            {.id = "b", .rows = part(2, 1)},
                            {.id = "a", .rows = part(1, 1)},
                            {.id = "A", .rows = part(1, 2)}}),
              IsOk());
  EXPECT_THAT(Ids(Search(index, rows.row(2))), ElementsAre("A", "b", "c", "a"));
  EXPECT_THAT(Ids(Search(index, rows.row(2), {.k = 2})), ElementsAre("A", "b"));
  EXPECT_NEAR(Search(index, rows.row(2))[0].score, 1, 0.01);
}

TEST_F(PartIndexTest, MemoryOfWhatIsReplacedComesBack) {
  PartIndex index(Options());
  const Matrix rows = UnitRows(5, 1);
  int64_t after_first = 0;
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 10; ++i) {
      const std::string id = absl::StrCat(i);
      ASSERT_THAT(index.Upsert({{.id = id, .rows = rows.view()}}), IsOk());
    }
    if (round == 0) after_first = index.memory_bytes();
  }
  EXPECT_EQ(index.parts(), 50);
  // Chunks are at most half dead, but for the last one.
  EXPECT_LT(index.memory_bytes(), 3 * after_first);
  for (int i = 0; i < 10; ++i) index.Remove({absl::StrCat(i)});
  EXPECT_EQ(index.parts(), 0);
  EXPECT_THAT(Search(index, rows.row(0)), IsEmpty());
}

TEST_F(PartIndexTest, RefusesWhatDoesNotFit) {
  PartIndex index(Options());
  const Matrix narrow(2, kDimension - 1);
  EXPECT_THAT(index.Upsert({{.id = "a", .rows = narrow.view()}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the dimension is 40")));
  EXPECT_FALSE(index.Contains("a"));
  EXPECT_THAT(index.Search(context_, narrow.row(0), {}, &stats_),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(index.Search(context_, UnitRows(1, 1).row(0), {.k = 0}, &stats_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("k")));
}

TEST_F(PartIndexTest, EndsBetweenChunksWhenTheCallerHasGone) {
  // Looks at the time before the search and before each chunk.
  class TickingClock final : public Clock {
   public:
    absl::Time Now() const override { return now_ += absl::Seconds(1); }

   private:
    mutable absl::Time now_ = absl::UnixEpoch();
  } clock;
  PartIndex index(Options());
  const Matrix rows = UnitRows(16, 1);
  for (int i = 0; i < 20; ++i) {
    const std::string id = absl::StrCat(i);
    ASSERT_THAT(index.Upsert({{.id = id, .rows = rows.view()}}), IsOk());
  }
  const RequestContext late(&clock, "test",
                            absl::UnixEpoch() + absl::Seconds(10));
  EXPECT_THAT(index.Search(late, rows.row(0), {}, &stats_),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  RequestContext gone(&kClock, "test");
  gone.Cancel();
  EXPECT_THAT(index.Search(gone, rows.row(0), {}, &stats_),
              StatusIs(absl::StatusCode::kCancelled));
}

// Two writers replace all of their items again and again, in one write each: a
// search sees every item, once, and of one writer's all from the same write.
TEST_F(PartIndexTest, SearchesSeeAllOrNothingOfAWrite) {
  constexpr int kWriters = 2;
  constexpr int kItems = 30;
  constexpr uint32_t kRounds = 150;
  PartIndex index(Options());
  const auto write = [&index](int writer, uint32_t round) {
    // Both signs of one vector: the score says which round it was.
    Matrix rows = UnitRows(3, 1);
    const float sign = round % 2 == 0 ? 1 : -1;
    for (int64_t i = 0; i < rows.rows(); ++i) {
      for (float& value : rows.row(i)) value *= sign;
    }
    std::vector<std::string> ids;
    for (int i = 0; i < kItems; ++i)
      ids.push_back(absl::StrCat(writer, "/", i));
    std::vector<PartRows> added;
    for (const std::string& id : ids) {
      added.push_back(
          {.id = id, .rows = rows.view(), .fields = Values(writer, round % 2)});
    }
    ASSERT_THAT(index.Upsert(added), IsOk());
  };
  for (int writer = 0; writer < kWriters; ++writer) write(writer, 0);
  std::atomic<int> writing = kWriters;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (uint32_t round = 1; round <= kRounds; ++round) write(writer, round);
      --writing;
    });
  }
  const Matrix query = UnitRows(1, 1);
  do {
    for (int writer = 0; writer < kWriters; ++writer) {
      const std::vector<int32_t> modalities = {writer};
      const auto found =
          Search(index, query.row(0), {.k = 1000, .modalities = modalities});
      ASSERT_EQ(found.size(), size_t{kItems});
      ASSERT_EQ(found.front().score, found.back().score);
    }
  } while (writing > 0);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(index.items(), kWriters * kItems);
  EXPECT_EQ(index.parts(), 3 * kWriters * kItems);
}

}  // namespace
}  // namespace quern
