#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/index/vector_index.h"
#include "tests/support/status_matchers.h"

// What every exact VectorIndex must do; the oracle is a sum in double precision
// over all vectors. A backend runs the suite by one line in
// tests/index/vector_index_test.cc.

namespace quern {

struct VectorIndexBackend {
  std::string name;
  std::function<std::unique_ptr<VectorIndex>(int64_t dimension, Metric metric)>
      create;
  // What every search asks besides k: approximate kinds are asked for `exact`.
  VectorSearchOptions search = {};
  // Called now and then: puts what was written into another form.
  std::function<void(VectorIndex&)> settle = [](VectorIndex&) {};
  std::string device = "cpu";  // That what is settled is searched on.
};

inline void PrintTo(const VectorIndexBackend& backend, std::ostream* out) {
  *out << backend.name;
}

class VectorIndexContract : public testing::TestWithParam<VectorIndexBackend> {
 protected:
  using Vector = std::vector<float>;
  using Vectors = std::map<std::string, Vector>;

  // Of the tests with random vectors.
  static constexpr int64_t kDimension = 24;
  // Of every comparison of a float sum with the oracle's.
  static constexpr double kTolerance = 1e-5;

  static std::unique_ptr<VectorIndex> Create(int64_t dimension, Metric metric) {
    return GetParam().create(dimension, metric);
  }

  static VectorSearchOptions Options(int64_t k) {
    VectorSearchOptions options = GetParam().search;
    options.k = k;
    return options;
  }
  static void Settle(VectorIndex& index) { GetParam().settle(index); }

  static absl::Status Upsert(VectorIndex& index,
                             const std::vector<std::string>& ids,
                             const std::vector<Vector>& vectors) {
    const Matrix rows = ToMatrix(vectors);
    return index.Upsert(ids, rows.view());
  }

  static absl::Status UpsertAll(VectorIndex& index, const Vectors& vectors) {
    std::vector<std::string> ids;
    std::vector<Vector> rows;
    for (const auto& [id, vector] : vectors) {
      ids.push_back(id);
      rows.push_back(vector);
    }
    return Upsert(index, ids, rows);
  }

  absl::StatusOr<std::vector<std::vector<ScoredId>>> SearchRows(
      const VectorIndex& index, const std::vector<Vector>& queries,
      int64_t k) const {
    const Matrix rows = ToMatrix(queries);
    return index.Search(context_, rows.view(), Options(k));
  }

  std::vector<ScoredId> Search(const VectorIndex& index, const Vector& query,
                               int64_t k) const {
    auto results = ValueOrDie(SearchRows(index, {query}, k));
    EXPECT_EQ(results.size(), 1u);
    return results[0];
  }

  static std::vector<std::string> Ids(const std::vector<ScoredId>& results) {
    std::vector<std::string> ids;
    ids.reserve(results.size());
    for (const ScoredId& result : results) ids.push_back(result.id);
    return ids;
  }

  static Matrix ToMatrix(const std::vector<Vector>& rows) {
    std::vector<float> values;
    for (const Vector& row : rows) {
      values.insert(values.end(), row.begin(), row.end());
    }
    return Matrix(static_cast<int64_t>(rows.size()),
                  rows.empty() ? 0 : static_cast<int64_t>(rows[0].size()),
                  std::move(values));
  }

  static Vector RandomVector(std::mt19937& random, int64_t dimension) {
    std::normal_distribution<float> normal;
    Vector vector(dimension);
    for (float& value : vector) value = normal(random);
    return vector;
  }

  // Sums of products of these are exact in float: ties are true ties.
  static Vector RandomIntegers(std::mt19937& random, int64_t dimension) {
    std::uniform_int_distribution<> small(-2, 2);
    Vector vector(dimension);
    for (float& value : vector) value = static_cast<float>(small(random));
    return vector;
  }

  static double Dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      sum += static_cast<double>(a[i]) * b[i];
    }
    return sum;
  }

  static double TrueScore(const Vector& a, const Vector& b, Metric metric) {
    return metric == Metric::kDotProduct
               ? Dot(a, b)
               : Dot(a, b) / std::sqrt(Dot(a, a) * Dot(b, b));
  }

  // Right within the tolerance: true scores, none better left out, in order.
  static void ExpectNearest(const std::vector<ScoredId>& results,
                            const Vectors& vectors, const Vector& query,
                            int64_t k, Metric metric) {
    ASSERT_EQ(results.size(),
              std::min<size_t>(static_cast<size_t>(k), vectors.size()));
    std::set<std::string> found;
    for (size_t i = 0; i < results.size(); ++i) {
      const ScoredId& result = results[i];
      ASSERT_TRUE(vectors.contains(result.id)) << "phantom " << result.id;
      EXPECT_TRUE(found.insert(result.id).second) << "twice " << result.id;
      EXPECT_NEAR(result.score, TrueScore(query, vectors.at(result.id), metric),
                  kTolerance);
      if (i == 0) continue;
      EXPECT_TRUE(results[i - 1].score > result.score ||
                  (results[i - 1].score == result.score &&
                   results[i - 1].id < result.id));
    }
    if (results.empty()) return;
    for (const auto& [id, vector] : vectors) {
      if (found.contains(id)) continue;
      EXPECT_LE(TrueScore(query, vector, metric),
                results.back().score + kTolerance)
          << id << " is better and left out";
    }
  }

  // Right to the last bit and the last tie, for RandomIntegers().
  static void ExpectExactly(const std::vector<ScoredId>& results,
                            const Vectors& vectors, const Vector& query,
                            int64_t k) {
    std::vector<std::pair<double, std::string>> expected;
    for (const auto& [id, vector] : vectors) {
      expected.emplace_back(-Dot(query, vector), id);
    }
    std::sort(expected.begin(), expected.end());
    if (static_cast<int64_t>(expected.size()) > k) expected.resize(k);
    ASSERT_EQ(results.size(), expected.size());
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].id, expected[i].second) << "at " << i;
      EXPECT_EQ(results[i].score, -expected[i].first) << "at " << i;
    }
  }

  FakeClock clock_{absl::FromUnixSeconds(1000)};
  RequestContext context_{&clock_, "test"};
};

TEST_P(VectorIndexContract, StartsEmpty) {
  const auto index = Create(3, Metric::kCosine);
  EXPECT_EQ(index->dimension(), 3);
  EXPECT_EQ(index->size(), 0);
  EXPECT_THAT(Search(*index, {1, 0, 0}, 10), testing::IsEmpty());
  EXPECT_THAT(ValueOrDie(SearchRows(*index, {}, 10)), testing::IsEmpty());
}

TEST_P(VectorIndexContract, CosineIgnoresLengths) {
  const auto index = Create(2, Metric::kCosine);
  ASSERT_THAT(Upsert(*index, {"x", "y", "diagonal", "against"},
                     {{1e-12F, 0}, {0, 7}, {1e15F, 1e15F}, {-3, 0}}),
              IsOk());
  const auto results = Search(*index, {2e10F, 0}, 4);
  EXPECT_THAT(Ids(results),
              testing::ElementsAre("x", "diagonal", "y", "against"));
  EXPECT_NEAR(results[0].score, 1, 1e-6);
  EXPECT_NEAR(results[1].score, std::sqrt(0.5), 1e-6);
  EXPECT_NEAR(results[2].score, 0, 1e-6);
  EXPECT_NEAR(results[3].score, -1, 1e-6);
}

TEST_P(VectorIndexContract, DotProductScoresAsTheyCome) {
  const auto index = Create(2, Metric::kDotProduct);
  ASSERT_THAT(
      Upsert(*index, {"long", "short", "zero"}, {{10, 0}, {1, 1}, {0, 0}}),
      IsOk());
  const auto results = Search(*index, {3, -1}, 3);
  EXPECT_THAT(Ids(results), testing::ElementsAre("long", "short", "zero"));
  EXPECT_EQ(results[0].score, 30);
  EXPECT_EQ(results[1].score, 2);
  EXPECT_EQ(results[2].score, 0);
}

TEST_P(VectorIndexContract, FindsTheNearestOfManyForBothMetrics) {
  for (const Metric metric : {Metric::kCosine, Metric::kDotProduct}) {
    std::mt19937 random(7);
    const auto index = Create(kDimension, metric);
    Vectors vectors;
    for (int i = 0; i < 5000; ++i) {
      vectors[absl::StrCat("v", i)] = RandomVector(random, kDimension);
    }
    ASSERT_THAT(UpsertAll(*index, vectors), IsOk());
    ASSERT_EQ(index->size(), 5000);
    EXPECT_GE(index->memory_bytes(), 5000 * kDimension);
    Settle(*index);
    EXPECT_GE(index->memory_bytes(), 5000 * kDimension);
    for (const int64_t k : {1, 10, 300}) {
      const Vector query = RandomVector(random, kDimension);
      ExpectNearest(Search(*index, query, k), vectors, query, k, metric);
    }
  }
}

TEST_P(VectorIndexContract, QueriesInABatchAreAnsweredAsAlone) {
  std::mt19937 random(11);
  const auto index = Create(32, Metric::kCosine);
  Vectors vectors;
  for (int i = 0; i < 1000; ++i) {
    vectors[absl::StrCat("v", i)] = RandomVector(random, 32);
  }
  ASSERT_THAT(UpsertAll(*index, vectors), IsOk());
  Settle(*index);
  std::vector<Vector> queries;
  queries.reserve(40);
  for (int i = 0; i < 40; ++i) queries.push_back(RandomVector(random, 32));

  const auto batch = ValueOrDie(SearchRows(*index, queries, 5));

  ASSERT_EQ(batch.size(), queries.size());
  for (size_t i = 0; i < queries.size(); ++i) {
    const auto alone = Search(*index, queries[i], 5);
    EXPECT_EQ(Ids(batch[i]), Ids(alone));
    EXPECT_EQ(batch[i][4].score, alone[4].score);
  }
}

TEST_P(VectorIndexContract, UpsertReplacesAndOfEqualIdsTheLastWins) {
  const auto index = Create(2, Metric::kDotProduct);
  ASSERT_THAT(Upsert(*index, {"a", "b"}, {{1, 0}, {2, 0}}), IsOk());
  ASSERT_THAT(Upsert(*index, {"a", "c", "c"}, {{5, 0}, {7, 0}, {3, 0}}),
              IsOk());
  EXPECT_EQ(index->size(), 3);
  const auto results = Search(*index, {1, 0}, 10);
  EXPECT_THAT(Ids(results), testing::ElementsAre("a", "c", "b"));
  EXPECT_EQ(results[1].score, 3);
}

TEST_P(VectorIndexContract, RemovedIdsAreNotFoundAndUnknownOnesIgnored) {
  const auto index = Create(2, Metric::kDotProduct);
  ASSERT_THAT(Upsert(*index, {"a", "b", "c"}, {{1, 0}, {2, 0}, {3, 0}}),
              IsOk());
  Settle(*index);
  ASSERT_THAT(index->Remove({"a", "nothing", "a"}), IsOk());
  EXPECT_FALSE(index->Contains("a"));
  EXPECT_TRUE(index->Contains("b"));
  ASSERT_THAT(index->Remove({}), IsOk());
  EXPECT_EQ(index->size(), 2);
  EXPECT_THAT(Ids(Search(*index, {1, 0}, 10)), testing::ElementsAre("c", "b"));
  ASSERT_THAT(index->Remove({"b", "c"}), IsOk());
  EXPECT_EQ(index->size(), 0);
  EXPECT_THAT(Search(*index, {1, 0}, 10), testing::IsEmpty());
}

TEST_P(VectorIndexContract, KMayExceedTheSize) {
  const auto index = Create(2, Metric::kCosine);
  ASSERT_THAT(Upsert(*index, {"a", "b"}, {{1, 0}, {0, 1}}), IsOk());
  EXPECT_EQ(Search(*index, {1, 0}, 1'000'000).size(), 2u);
  EXPECT_EQ(Search(*index, {1, 0}, std::numeric_limits<int64_t>::max()).size(),
            2u);
}

TEST_P(VectorIndexContract, RefusesKBelowOne) {
  const auto index = Create(2, Metric::kCosine);
  for (const int64_t k : {int64_t{0}, int64_t{-1}}) {
    const auto results = SearchRows(*index, {{1, 0}}, k);
    EXPECT_THAT(results, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(results.status()), "k");
  }
}

TEST_P(VectorIndexContract, EqualScoresComeInByteOrderOfTheIds) {
  const auto index = Create(2, Metric::kDotProduct);
  const std::vector<std::string> ids = {"b", "\xff", "a", "é", "B", "aa"};
  ASSERT_THAT(Upsert(*index, ids, std::vector<Vector>(ids.size(), {1, 2})),
              IsOk());
  EXPECT_THAT(Ids(Search(*index, {1, 1}, 10)),
              testing::ElementsAre("B", "a", "aa", "b", "é", "\xff"));
}

TEST_P(VectorIndexContract, TiesAtTheCutGoToTheSmallestIds) {
  const auto index = Create(2, Metric::kCosine);
  // Rows in the opposite order of the ids, one better than the rest.
  for (int i = 999; i >= 0; --i) {
    ASSERT_THAT(Upsert(*index, {absl::StrFormat("id%03d", i)}, {{1, 3}}),
                IsOk());
  }
  ASSERT_THAT(Upsert(*index, {"zz"}, {{1, 0}}), IsOk());
  Settle(*index);
  EXPECT_THAT(Ids(Search(*index, {1, 0}, 4)),
              testing::ElementsAre("zz", "id000", "id001", "id002"));
}

TEST_P(VectorIndexContract, RefusesWrongShapes) {
  const auto index = Create(3, Metric::kCosine);
  ASSERT_THAT(Upsert(*index, {"a"}, {{1, 0, 0}}), IsOk());
  EXPECT_THAT(Upsert(*index, {"b"}, {{1, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Upsert(*index, {"b", "c"}, {{1, 0, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SearchRows(*index, {{1, 0}}, 1),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(index->size(), 1);
}

TEST_P(VectorIndexContract, RefusesVectorsThatCannotBeComparedByRow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto index = Create(2, Metric::kCosine);
  for (const Vector& bad : std::vector<Vector>{
           {nan, 1}, {1, infinity}, {-infinity, 0}, {0, -0.0F}, {3e38F, 0}}) {
    const absl::Status status = Upsert(*index, {"a", "b"}, {{1, 0}, bad});
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(status), "vectors[1]");
    const auto results = SearchRows(*index, {bad}, 1);
    EXPECT_THAT(results, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(results.status()), "queries[0]");
  }
  EXPECT_EQ(index->size(), 0);
}

TEST_P(VectorIndexContract, DotProductTakesZeroVectorsAndNoOverflow) {
  const auto index = Create(2, Metric::kDotProduct);
  ASSERT_THAT(Upsert(*index, {"zero"}, {{0, 0}}), IsOk());
  EXPECT_EQ(Search(*index, {0, 0}, 1)[0].score, 0);
  EXPECT_THAT(Upsert(*index, {"huge"}, {{3e38F, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(VectorIndexContract, StopsForCancellationAndDeadline) {
  const auto index = Create(2, Metric::kCosine);
  ASSERT_THAT(Upsert(*index, {"a"}, {{1, 0}}), IsOk());
  const Vector query = {1, 0};
  const MatrixView row{query.data(), 1, 2};
  RequestContext cancelled(&clock_, "cancelled");
  cancelled.Cancel();
  EXPECT_THAT(index->Search(cancelled, row, Options(1)),
              StatusIs(absl::StatusCode::kCancelled));
  const RequestContext late(&clock_, "late", clock_.Now());
  EXPECT_THAT(index->Search(late, row, Options(1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_P(VectorIndexContract, RefusesRecallOutsideOfZeroToOne) {
  const auto index = Create(2, Metric::kCosine);
  const Vector query = {1, 0};
  for (const float recall : {0.0F, -1.0F, 1.5F, std::nanf("")}) {
    VectorSearchOptions options = Options(1);
    options.recall = recall;
    const auto results = index->Search(context_, {query.data(), 1, 2}, options);
    EXPECT_THAT(results, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(results.status()), "recall");
  }
}

TEST_P(VectorIndexContract, SaysWhatItDid) {
  const auto index = Create(2, Metric::kCosine);
  ASSERT_THAT(Upsert(*index, {"a", "b", "c"}, {{1, 0}, {2, 0}, {3, 0}}),
              IsOk());
  Settle(*index);
  SearchStats stats;
  VectorSearchOptions options = Options(1);
  options.explain = true;
  const Vector query = {1, 0};
  ASSERT_THAT(index->Search(context_, {query.data(), 1, 2}, options, &stats),
              IsOk());
  EXPECT_GE(stats.shards_asked, 1);
  EXPECT_EQ(stats.shards_answered, stats.shards_asked);
  EXPECT_THAT(stats.degraded_reasons, testing::IsEmpty());
  EXPECT_THAT(stats.plan, testing::Not(testing::IsEmpty()));
  int64_t items = 0;
  for (const ShardInfo& shard : index->shards()) {
    items += shard.item_count;
    EXPECT_TRUE(shard.available);
    EXPECT_EQ(shard.device, GetParam().device);
  }
  EXPECT_EQ(items, 3);
}

// Filters of several selectivities over rows that come, change and go. The
// field is "n", the number in the id; replaced items get another one.
TEST_P(VectorIndexContract, FiltersReturnAllThatMatch) {
  const auto index = Create(kDimension, Metric::kDotProduct);
  std::mt19937 random(5);
  Vectors vectors;
  std::map<std::string, double> numbers;
  std::map<std::string, int32_t> modalities;
  const auto write = [&](int first, int count, double offset) {
    std::vector<std::string> ids;
    std::vector<Vector> rows;
    std::vector<FieldValues> fields;
    for (int i = first; i < first + count; ++i) {
      ids.push_back(absl::StrCat("v", i));
      rows.push_back(RandomIntegers(random, kDimension));
      vectors[ids.back()] = rows.back();
      numbers[ids.back()] = i + offset;
      modalities[ids.back()] = 1 + i % 3;
      fields.push_back(
          {.entries = {{0, FieldValue(i + offset)}}, .modality = 1 + i % 3});
    }
    const Matrix matrix = ToMatrix(rows);
    ASSERT_THAT(index->Upsert(ids, matrix.view(), fields), IsOk());
  };
  write(0, 3000, 0);
  Settle(*index);
  write(500, 700, 10'000);
  std::vector<std::string> removed;
  for (int i = 0; i < 3000; i += 7) removed.push_back(absl::StrCat("v", i));
  ASSERT_THAT(index->Remove(removed), IsOk());
  for (const std::string& id : removed) vectors.erase(id);

  const std::vector<FieldDeclaration> declared = {
      {.path = "n", .type = FieldType::kNumber}};
  for (const char* text : {"n < 1500", "n < 150", "n < 15", "n = 3", "n < 0",
                           "n >= 10000", "NOT n < 2990"}) {
    for (const int32_t modality : {0, 2}) {
      SCOPED_TRACE(absl::StrCat(text, " of modality ", modality));
      VectorSearchOptions options = Options(20);
      options.filter = ValueOrDie(ParseFilter(text, declared));
      if (modality != 0) options.modalities = {modality};
      Vectors matching;
      for (const auto& [id, vector] : vectors) {
        if (!Matches(*options.filter,
                     {.entries = {{0, FieldValue(numbers[id])}}}) ||
            (modality != 0 && modalities[id] != modality)) {
          continue;
        }
        matching[id] = vector;
      }
      const Vector query = RandomIntegers(random, kDimension);
      const auto results = ValueOrDie(
          index->Search(context_, {query.data(), 1, kDimension}, options));
      ExpectExactly(results[0], matching, query, 20);
    }
  }
}

// Thousands of rows come and go, so that rows move and storage shrinks.
TEST_P(VectorIndexContract, AgreesWithTheOracleOverRandomCalls) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    std::mt19937 random(seed);
    const auto index = Create(kDimension, Metric::kDotProduct);
    Vectors expected;
    const auto below = [&random](int limit) {
      return std::uniform_int_distribution<>(0, limit - 1)(random);
    };
    for (int step = 0; step < 120; ++step) {
      std::vector<std::string> ids;
      std::vector<Vector> vectors;
      for (int i = below(400); i >= 0; --i) {
        ids.push_back(absl::StrCat("id", below(9000)));
        vectors.push_back(RandomIntegers(random, kDimension));
      }
      if (step % 3 == 2) {
        ASSERT_THAT(index->Remove(ids), IsOk());
        for (const std::string& id : ids) expected.erase(id);
      } else {
        ASSERT_THAT(Upsert(*index, ids, vectors), IsOk());
        for (size_t i = 0; i < ids.size(); ++i) expected[ids[i]] = vectors[i];
      }
      if (step % 17 == 16) Settle(*index);
      ASSERT_EQ(index->size(), static_cast<int64_t>(expected.size()));
      const Vector query = RandomIntegers(random, kDimension);
      const int64_t k = 1 + below(30);
      ExpectExactly(Search(*index, query, k), expected, query, k);
      if (HasFatalFailure()) return;
    }
  }
}

// "left" and "right" change together; a search that saw half of an Upsert()
// would find them with different scores.
TEST_P(VectorIndexContract, SearchesSeeAllOfAnUpsertOrNothing) {
  const auto index = Create(2, Metric::kDotProduct);
  ASSERT_THAT(Upsert(*index, {"left", "right"}, {{1, 0}, {1, 0}}), IsOk());
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      const auto value = static_cast<float>(i % 1000);
      EXPECT_THAT(
          Upsert(*index, {"left", absl::StrCat("other", i % 50), "right"},
                 {{value, 0}, {-1, 0}, {value, 0}}),
          IsOk());
      if (i % 7 == 0) {
        EXPECT_THAT(index->Remove({absl::StrCat("other", i % 50)}), IsOk());
      }
    }
  });
  std::thread settler([&] {
    while (!stop) {
      Settle(*index);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> readers;
  readers.reserve(2);
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const auto results = Search(*index, {1, 0}, 2);
        ASSERT_EQ(results.size(), 2u);
        EXPECT_EQ(results[0].id, "left");
        EXPECT_EQ(results[1].id, "right");
        EXPECT_EQ(results[0].score, results[1].score);
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  stop = true;
  writer.join();
  settler.join();
}

}  // namespace quern
