#include "engine/index/sharded_index.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/index/plain_bytes.h"
#include "tests/index/clustered_vectors.h"
#include "tests/index/same_results.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDimension = 32;
constexpr int64_t kRows = 4000;
constexpr int64_t kQueries = 100;

const RealClock kClock;

class ShardedIndexTest : public testing::Test {
 protected:
  ShardedIndexOptions Options(IndexKind kind, VectorStorage storage) {
    return {
        .dimension = kDimension,
        .kind = kind,
        .storage = storage,
        .fields = fields_,
        .reader =
            [this](absl::Span<const std::string> ids,
                   const std::function<void(size_t, absl::Span<const float>)>&
                       visit) {
              for (size_t i = 0; i < ids.size(); ++i) {
                visit(i, vectors_.row(std::stoll(ids[i])));
              }
              return absl::OkStatus();
            },
        .min_ann_rows = 1000};
  }

  static std::unique_ptr<ShardedIndex> Create(ShardedIndexOptions options) {
    return ValueOrDie(ShardedIndex::Create(std::move(options)));
  }

  // Rows first to last - 1 of `vectors_`; an id is its row's number, and so is
  // the field "n".
  void Write(ShardedIndex& index, int64_t first, int64_t last) const {
    std::vector<std::string> ids;
    std::vector<FieldValues> fields;
    for (int64_t i = first; i < last; ++i) {
      ids.push_back(absl::StrCat(i));
      fields.push_back({.entries = {{0, FieldValue(static_cast<double>(i))}}});
    }
    ASSERT_THAT(index.Upsert(ids,
                             {.data = vectors_.row(first).data(),
                              .rows = last - first,
                              .columns = kDimension},
                             fields),
                IsOk());
  }

  static void Optimize(ShardedIndex& index) {
    const RequestContext context(&kClock, "test");
    ASSERT_THAT(index.Optimize(context, [](float) {}), IsOk());
  }

  // Of the 10 nearest rows, those of [first, last) that are in `results`.
  double RecallOf(const std::vector<std::vector<ScoredId>>& results,
                  int64_t first, int64_t last) const {
    int64_t found = 0;
    for (int64_t q = 0; q < kQueries; ++q) {
      std::vector<std::pair<float, int64_t>> all;
      for (int64_t i = first; i < last; ++i) {
        float score = 0;
        for (int64_t j = 0; j < kDimension; ++j) {
          score += vectors_.row(i)[j] * queries_.row(q)[j];
        }
        all.emplace_back(-score, i);
      }
      std::partial_sort(all.begin(), all.begin() + 10, all.end());
      std::set<std::string> truth;
      for (int i = 0; i < 10; ++i) truth.insert(absl::StrCat(all[i].second));
      for (const ScoredId& hit : results[q]) {
        found += truth.contains(hit.id) ? 1 : 0;
      }
    }
    return static_cast<double>(found) / (10 * kQueries);
  }

  std::vector<std::vector<ScoredId>> SearchAll(
      const ShardedIndex& index,
      const VectorSearchOptions& options = {}) const {
    const RequestContext context(&kClock, "test");
    return ValueOrDie(index.Search(context, queries_.view(), options));
  }

  const Matrix vectors_ = ClusteredVectors(kRows, kDimension, 200, 2);
  const Matrix queries_ = ClusteredVectors(kQueries, kDimension, 200, 3);
  const std::vector<FieldDeclaration> fields_ = {
      {.path = "n", .type = FieldType::kNumber}};
  const TemporaryDirectory directory_;
};

// Width of the beam of a graph; 0: none was walked.
int BeamOf(const std::string& plan) {
  const std::vector<std::string> words = absl::StrSplit(plan, "a beam of ");
  return words.size() < 2 ? 0 : std::stoi(words[1]);
}

// Sampling noise of a hundred queries.
constexpr double kNoise = 0.03;

TEST_F(ShardedIndexTest, OptimizeEndsInTheMiddleOfABuildAndChangesNothing) {
  ShardedIndexOptions options = Options(IndexKind::kHnsw, VectorStorage::kInt8);
  RequestContext context(&kClock, "test");
  // Exact vectors are read while a built graph is calibrated.
  options.reader = [&context, read = options.reader](const auto& ids,
                                                     const auto& visit) {
    context.Cancel();
    return read(ids, visit);
  };
  const auto index = Create(std::move(options));
  Write(*index, 0, kRows);
  EXPECT_THAT(index->Optimize(context, [](float) {}),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(index->shards().at(0).kind, IndexKind::kExact);
  EXPECT_EQ(RecallOf(SearchAll(*index), 0, kRows), 1);
  Optimize(*index);
  EXPECT_EQ(index->shards().at(0).kind, IndexKind::kHnsw);
}

TEST_F(ShardedIndexTest, OptimizeThatWaitsForAnotherOneCanBeCancelled) {
  const auto index = Create(Options(IndexKind::kExact, VectorStorage::kFp32));
  Write(*index, 0, 100);
  const RequestContext context(&kClock, "test");
  absl::Status second;
  EXPECT_THAT(index->Optimize(context,
                              [&](float) {
                                std::thread([&] {
                                  RequestContext gone(&kClock, "gone");
                                  gone.Cancel();
                                  second = index->Optimize(gone, [](float) {});
                                }).join();
                              }),
              IsOk());
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kCancelled));
}

// A snapshot of the collection does not wait for a long build.
TEST_F(ShardedIndexTest, FilesAreLinkedWhileItIsOptimized) {
  ShardedIndexOptions options =
      Options(IndexKind::kExact, VectorStorage::kFp32);
  options.directory = directory_.File("index");
  const auto index = Create(options);
  Write(*index, 0, 100);
  Optimize(*index);
  Write(*index, 100, 200);
  const std::string copy = directory_.File("copy");
  const RequestContext context(&kClock, "test");
  absl::Status linked = absl::UnknownError("not called");
  EXPECT_THAT(index->Optimize(context,
                              [&](float) {
                                linked = index->LinkFiles(context, copy,
                                                          absl::OkStatus);
                              }),
              IsOk());
  EXPECT_THAT(linked, IsOk());
  options.directory = copy;
  EXPECT_EQ(Create(options)->size(), 100);
}

// Rows that wait for a segment, some of them deleted or not asked for.
TEST_F(ShardedIndexTest, NewRowsAreFoundByTheirBinaryCodes) {
  const auto index = Create(Options(IndexKind::kHnsw, VectorStorage::kInt8));
  const RequestContext context(&kClock, "test");
  int64_t written = 0;
  for (const int64_t rows : {1, 31, 32, 129, 1000, 4000}) {
    SCOPED_TRACE(rows);
    Write(*index, written, rows);
    ASSERT_THAT(index->Remove({absl::StrCat(written)}), IsOk());
    written = rows;
    for (const int64_t k : {1, 10, 300}) {
      for (const char* const text : {"", "n < 100"}) {
        VectorSearchOptions options{.k = k, .explain = true};
        if (*text != 0) {
          options.filter = ValueOrDie(ParseFilter(text, fields_));
        }
        SearchStats stats;
        const auto found = ValueOrDie(
            index->Search(context, queries_.view(), options, &stats));
        options.exact = true;
        SearchStats exact_stats;
        const auto exact = ValueOrDie(
            index->Search(context, queries_.view(), options, &exact_stats));
        ExpectSameResults(found, exact);
        EXPECT_EQ(absl::StrContains(stats.plan, "binary codes"), rows > 128)
            << stats.plan;
        EXPECT_FALSE(absl::StrContains(exact_stats.plan, "binary codes"));
      }
    }
  }
}

TEST_F(ShardedIndexTest, ExactSegmentsAreSearchedByTheirBinaryCodes) {
  for (const VectorStorage storage :
       {VectorStorage::kFp32, VectorStorage::kFp16, VectorStorage::kInt8}) {
    SCOPED_TRACE(static_cast<int>(storage));
    const auto index = Create(Options(IndexKind::kExact, storage));
    Write(*index, 0, kRows);
    Optimize(*index);
    ASSERT_THAT(index->Remove({"17", "18"}), IsOk());
    const RequestContext context(&kClock, "test");
    for (const char* const text : {"", "n < 2000", "n < 100"}) {
      VectorSearchOptions options{.explain = true};
      if (*text != 0) options.filter = ValueOrDie(ParseFilter(text, fields_));
      SearchStats stats;
      const auto found =
          ValueOrDie(index->Search(context, queries_.view(), options, &stats));
      // Few are looked up.
      EXPECT_EQ(absl::StrContains(stats.plan, "binary codes"),
                !absl::StrContains(text, "100"))
          << stats.plan;
      options.exact = true;
      ExpectSameResults(found, SearchAll(*index, options));
    }
  }
}

TEST_F(ShardedIndexTest, EachKindMeetsItsTargetAndReportsWhatItMeasured) {
  for (const IndexKind kind : {IndexKind::kHnsw, IndexKind::kIvfPq}) {
    for (const VectorStorage storage :
         {VectorStorage::kFp32, VectorStorage::kFp16, VectorStorage::kInt8}) {
      SCOPED_TRACE(absl::StrCat(static_cast<int>(kind), " over ",
                                static_cast<int>(storage)));
      const auto index = Create(Options(kind, storage));
      Write(*index, 0, kRows);
      Optimize(*index);
      const ShardInfo shard = index->shards().at(0);
      ASSERT_EQ(shard.kind, kind) << shard.message;
      EXPECT_EQ(shard.item_count, kRows);
      const double recall = RecallOf(SearchAll(*index), 0, kRows);
      EXPECT_GE(recall, 0.95 - kNoise);
      EXPECT_NEAR(*shard.measured_recall, recall, 2 * kNoise);
      // More is to be had for a request that asks for it, up to all.
      EXPECT_GE(RecallOf(SearchAll(*index, {.recall = 0.99F}), 0, kRows),
                0.99 - kNoise);
      EXPECT_EQ(RecallOf(SearchAll(*index, {.exact = true}), 0, kRows), 1);
    }
  }
}

// What users ask may be less like the rows than these are like each other.
TEST_F(ShardedIndexTest, QueriesThatWereAskedWidenTheBeam) {
  const Matrix asked = ClusteredVectors(kQueries, kDimension, 100, 4, 5);
  const RequestContext context(&kClock, "test");
  const auto beam = [&](bool ask) {
    const auto index = Create(Options(IndexKind::kHnsw, VectorStorage::kFp32));
    Write(*index, 0, kRows);
    if (ask) {
      EXPECT_THAT(index->Search(context, asked.view(), {}), IsOk());
    }
    Optimize(*index);
    SearchStats stats;
    EXPECT_THAT(index->Search(context, asked.view(), {.explain = true}, &stats),
                IsOk());
    return BeamOf(stats.plan);
  };
  EXPECT_GT(beam(true), beam(false));
}

TEST_F(ShardedIndexTest, ScoresAreThoseOfTheVectorsWhateverIsKeptOfThem) {
  const auto index = Create(Options(IndexKind::kHnsw, VectorStorage::kInt8));
  Write(*index, 0, kRows);
  Optimize(*index);
  const auto results = SearchAll(*index);
  for (int64_t q = 0; q < kQueries; ++q) {
    for (const ScoredId& hit : results[q]) {
      double score = 0;
      for (int64_t j = 0; j < kDimension; ++j) {
        score += static_cast<double>(queries_.row(q)[j]) *
                 vectors_.row(std::stoll(hit.id))[j];
      }
      EXPECT_NEAR(hit.score, score, 1e-5);
    }
  }
}

TEST_F(ShardedIndexTest, FallsToExactWhereNothingReachesTheTarget) {
  ShardedIndexOptions options = Options(IndexKind::kHnsw, VectorStorage::kFp32);
  options.target_recall = std::nextafter(1.0F, 0.0F);
  const auto index = Create(std::move(options));
  // All alike: a graph finds ten of them, but not the ten with the least ids.
  const std::vector<float> same(2000 * kDimension, 1);
  std::vector<std::string> ids(2000);
  for (int i = 0; i < 2000; ++i) ids[i] = absl::StrCat(i);
  ASSERT_THAT(
      index->Upsert(ids,
                    {.data = same.data(), .rows = 2000, .columns = kDimension}),
      IsOk());
  Optimize(*index);
  const ShardInfo shard = index->shards().at(0);
  EXPECT_EQ(shard.kind, IndexKind::kExact);
  EXPECT_EQ(*shard.measured_recall, 1);
  EXPECT_THAT(shard.message, testing::HasSubstr("target recall"));
}

TEST_F(ShardedIndexTest, FiltersKeepTheRecallAtEverySelectivity) {
  for (const IndexKind kind : {IndexKind::kHnsw, IndexKind::kIvfPq}) {
    const auto index = Create(Options(kind, VectorStorage::kInt8));
    Write(*index, 0, kRows);
    Optimize(*index);
    for (const int64_t matches : {3600, 2000, 200, 20}) {
      SCOPED_TRACE(absl::StrCat(static_cast<int>(kind), ": ", matches));
      const auto results =
          SearchAll(*index, {.filter = ValueOrDie(ParseFilter(
                                 absl::StrCat("n < ", matches), fields_))});
      for (const auto& hits : results) EXPECT_EQ(hits.size(), 10u);
      EXPECT_GE(RecallOf(results, 0, matches), 0.95 - kNoise);
    }
  }
}

TEST_F(ShardedIndexTest, ManyResultsComeWhole) {
  const auto index = Create(Options(IndexKind::kHnsw, VectorStorage::kInt8));
  Write(*index, 0, kRows);
  Optimize(*index);
  for (const int64_t k : {int64_t{500}, kRows, 3 * kRows}) {
    for (const auto& hits : SearchAll(*index, {.k = k})) {
      ASSERT_EQ(hits.size(), static_cast<size_t>(std::min(k, kRows)));
      EXPECT_TRUE(std::is_sorted(hits.begin(), hits.end(),
                                 [](const ScoredId& a, const ScoredId& b) {
                                   return a.score > b.score;
                                 }));
    }
  }
}

// A walk of n rows' graph with a beam of n / 48 would cost as much as comparing
// them, if steps did not cost more, the wider a beam is.
TEST_F(ShardedIndexTest, ComparesOneByOneWhereAWideBeamIsDearer) {
  constexpr int64_t kMany = 20'000;
  const Matrix vectors = ClusteredVectors(kMany, 8, 200, 2);
  const auto index = Create({.dimension = 8, .kind = IndexKind::kHnsw});
  std::vector<std::string> ids(kMany);
  for (int64_t i = 0; i < kMany; ++i) ids[i] = absl::StrCat(i);
  ASSERT_THAT(index->Upsert(ids, vectors.view()), IsOk());
  Optimize(*index);
  const RequestContext context(&kClock, "test");
  const auto plan = [&](int64_t k) {
    SearchStats stats;
    EXPECT_THAT(index->Search(context,
                              {.data = vectors.data(), .rows = 1, .columns = 8},
                              {.k = k, .explain = true}, &stats),
                IsOk());
    return stats.plan;
  };
  const int beam = BeamOf(plan(10));
  ASSERT_GT(beam, 0);
  const int64_t k = 10 + (kMany / 48 - beam) / 2;
  EXPECT_GT(BeamOf(plan(k - 10)), 0);
  EXPECT_EQ(BeamOf(plan(k)), 0) << plan(k);
}

TEST_F(ShardedIndexTest, ACachedVectorIsNotReadAgainAndNeverStale) {
  Matrix vectors = vectors_;
  int64_t reads = 0;
  ShardedIndexOptions options =
      Options(IndexKind::kExact, VectorStorage::kInt8);
  options.reader =
      [&](absl::Span<const std::string> ids,
          const std::function<void(size_t, absl::Span<const float>)>& visit) {
        for (size_t i = 0; i < ids.size(); ++i) {
          visit(i, vectors.row(std::stoll(ids[i])));
        }
        reads += static_cast<int64_t>(ids.size());
        return absl::OkStatus();
      };
  const ShardedIndexOptions uncached = options;
  options.cache = std::make_shared<VectorCache>(64 << 20);
  const auto index = Create(options);
  // Another one, whose rows of the same numbers are other vectors.
  const auto other = Create(options);
  Write(*index, 0, kRows);
  Write(*other, kRows / 2, kRows);
  Write(*other, 0, kRows / 2);
  Optimize(*index);
  Optimize(*other);
  const auto found = SearchAll(*index);
  ExpectSameResults(SearchAll(*other), found);
  EXPECT_GT(reads, 0);
  reads = 0;
  ExpectSameResults(SearchAll(*index), found);
  ExpectSameResults(SearchAll(*other), found);
  EXPECT_EQ(reads, 0);

  // The best of the first query becomes the worst, first in a delta, then in a
  // segment of its own.
  const int64_t best = std::stoll(found[0][0].id);
  for (float& value : vectors.row(best)) value = -value;
  ASSERT_THAT(
      index->Upsert(
          {absl::StrCat(best)},
          {.data = vectors.row(best).data(), .rows = 1, .columns = kDimension}),
      IsOk());
  const auto fresh = Create(uncached);
  std::vector<std::string> ids;
  for (int64_t i = 0; i < kRows; ++i) ids.push_back(absl::StrCat(i));
  ASSERT_THAT(fresh->Upsert(ids, vectors.view()), IsOk());
  Optimize(*fresh);
  const auto expected = SearchAll(*fresh);
  for (const bool sealed : {false, true}) {
    SCOPED_TRACE(sealed);
    if (sealed) Optimize(*index);
    ExpectSameResults(SearchAll(*index), expected);
    EXPECT_NE(SearchAll(*index)[0][0].id, absl::StrCat(best));
  }
}

// Placeholders that many items have, and a few rows that are even nearer.
TEST_F(ShardedIndexTest, FewOfManyCopiesAreRead) {
  constexpr int64_t kFirstCopy = 5;
  for (const VectorStorage storage :
       {VectorStorage::kFp16, VectorStorage::kInt8}) {
    SCOPED_TRACE(static_cast<int>(storage));
    Matrix vectors = vectors_;
    for (int64_t i = kFirstCopy; i < kRows; ++i) {
      std::copy_n(vectors_.row(0).data(), kDimension, vectors.row(i).data());
      vectors.row(i)[0] -= 0.01F;
    }
    int64_t reads = 0;
    bool replaced = false;  // A copy, since it was indexed.
    ShardedIndexOptions options = Options(IndexKind::kExact, storage);
    options.reader =
        [&](absl::Span<const std::string> ids,
            const std::function<void(size_t, absl::Span<const float>)>& visit) {
          for (size_t i = 0; i < ids.size(); ++i) {
            const int64_t row = std::stoll(ids[i]);
            visit(i,
                  replaced && row == 1000 ? vectors_.row(1) : vectors.row(row));
          }
          reads += static_cast<int64_t>(ids.size());
          return absl::OkStatus();
        };
    options.shards = 2;
    const auto index = Create(options);
    std::vector<std::string> ids(kRows);
    for (int64_t i = 0; i < kRows; ++i) ids[i] = absl::StrCat(i);
    // Copies in segments of several ages, and among the new.
    for (const int64_t first : {int64_t{0}, kRows / 2}) {
      ASSERT_THAT(
          index->Upsert(absl::MakeConstSpan(ids).subspan(first, kRows / 2),
                        {.data = vectors.row(first).data(),
                         .rows = kRows / 2,
                         .columns = kDimension}),
          IsOk());
      if (first == 0) Optimize(*index);
    }
    std::vector<std::string> expected(ids.begin() + kFirstCopy, ids.end());
    std::sort(expected.begin(), expected.end());
    expected.insert(expected.begin(), "0");
    const RequestContext context(&kClock, "test");
    const MatrixView query{
        .data = vectors.data(), .rows = 1, .columns = kDimension};
    for (const bool all_sealed : {false, true}) {
      if (all_sealed) Optimize(*index);
      for (const int64_t k : {1, 2, 10, 100}) {
        SCOPED_TRACE(k);
        for (const bool exact : {true, false}) {
          reads = 0;
          const auto found = ValueOrDie(
              index->Search(context, query, {.k = k, .exact = exact}));
          ASSERT_EQ(found[0].size(), static_cast<size_t>(k));
          for (int64_t i = 0; i < k; ++i) {
            EXPECT_EQ(found[0][i].id, expected[i]);
          }
        }
        EXPECT_LE(reads, 3 * k + 40);
      }
    }
    replaced = true;
    reads = 0;
    ValueOrDie(index->Search(context, query, {}));
    EXPECT_LE(reads, 100);
  }
}

class ShardedIndexFilesTest : public ShardedIndexTest {
 protected:
  ShardedIndexOptions WithFiles(uint64_t newest_sequence = 100) {
    ShardedIndexOptions options =
        Options(IndexKind::kHnsw, VectorStorage::kInt8);
    options.shards = 2;
    options.directory = directory_.File("index");
    options.newest_sequence = newest_sequence;
    options.saved = [this](uint64_t sequence) { saved_ = sequence; };
    return options;
  }

  // Two shards with a graph each, some rows dead, saved at sequence 9.
  std::vector<std::vector<ScoredId>> MakeFiles() {
    const auto index = Create(WithFiles());
    Write(*index, 0, kRows);
    index->MarkApplied(9);
    Optimize(*index);
    EXPECT_EQ(saved_, 9u);
    return SearchAll(*index);
  }

  std::vector<std::string> Files(const std::string& prefix) const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(directory_.File("index"))) {
      if (absl::StartsWith(entry.path().filename().string(), prefix)) {
        paths.push_back(entry.path().string());
      }
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  std::string PlanOf(const ShardedIndex& index, const std::string& text) const {
    const RequestContext context(&kClock, "test");
    const VectorSearchOptions options{
        .filter = ValueOrDie(ParseFilter(text, fields_)), .explain = true};
    SearchStats stats;
    EXPECT_THAT(index.Search(context, queries_.view(), options, &stats),
                IsOk());
    return stats.plan;
  }

  uint64_t saved_ = 0;
};

TEST_F(ShardedIndexFilesTest, OpensAsItWasSaved) {
  const auto before = MakeFiles();
  const auto index = Create(WithFiles());
  EXPECT_FALSE(index->incomplete());
  EXPECT_EQ(index->applied_sequence(), 9u);
  EXPECT_EQ(index->size(), kRows);
  for (const ShardInfo& shard : index->shards()) {
    EXPECT_EQ(shard.kind, IndexKind::kHnsw);
  }
  ExpectSameResults(SearchAll(*index), before);
  const auto filter = ValueOrDie(ParseFilter("n < 20", fields_));
  EXPECT_EQ(RecallOf(SearchAll(*index, {.filter = filter}), 0, 20), 1);
}

TEST_F(ShardedIndexFilesTest, DeadRowsStayDeadAndRowsGoOn) {
  MakeFiles();
  {
    const auto index = Create(WithFiles());
    std::vector<std::string> removed(100);
    for (int i = 0; i < 100; ++i) removed[i] = absl::StrCat(i);
    ASSERT_THAT(index->Remove(removed), IsOk());
    Write(*index, 100, 1400);
    index->MarkApplied(11);
    Optimize(*index);
  }
  const auto index = Create(WithFiles());
  EXPECT_EQ(index->applied_sequence(), 11u);
  EXPECT_EQ(index->size(), kRows - 100);
  EXPECT_FALSE(index->Contains("7"));
  const auto filter = ValueOrDie(ParseFilter("n < 120", fields_));
  for (const auto& hits : SearchAll(*index, {.k = 50, .filter = filter})) {
    EXPECT_EQ(hits.size(), 20u);
  }
}

TEST_F(ShardedIndexFilesTest, WhatIsNotSealedIsAskedForAgain) {
  ShardedIndexOptions options = WithFiles();
  options.background = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 1});
  options.seal_rows = 1000;
  const std::shared_ptr<ThreadPool> background = options.background;
  {
    const auto index = Create(std::move(options));
    Write(*index, 0, 1000);
    index->MarkApplied(5);
    Write(*index, 1000, 1100);
    index->MarkApplied(6);
    background->Shutdown();  // Runs what is queued.
  }
  const auto index = Create(WithFiles());
  // How far the background came depends on its timing; nothing may be lost.
  if (index->applied_sequence() == 0) {
    EXPECT_EQ(index->size(), 1000);
  } else if (index->applied_sequence() == 5) {
    EXPECT_GE(index->size(), 1000);
  } else {
    EXPECT_EQ(index->size(), 1100);
  }
}

TEST_F(ShardedIndexFilesTest, FewRowsThatAreWrittenAgainAreNotSealed) {
  ShardedIndexOptions options = WithFiles();
  const auto background = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 1});
  options.background = background;
  const auto index = Create(std::move(options));
  for (int i = 0; i < 5; ++i) Write(*index, 0, 10);
  background->Shutdown();  // Runs what is queued.
  EXPECT_EQ(index->disk_bytes(), 0);
}

TEST_F(ShardedIndexFilesTest, ThatARepairIsDoneIsSavedAtOnce) {
  MakeFiles();
  fs::resize_file(Files("segment-").at(0), 1000);
  {
    ShardedIndexOptions options = WithFiles();
    const auto background = std::make_shared<ThreadPool>(
        ThreadPoolOptions{.name = "index", .threads = 1});
    options.background = background;
    const auto index = Create(std::move(options));
    ASSERT_TRUE(index->incomplete());
    index->MarkComplete();
    background->Shutdown();  // Runs what is queued.
  }
  EXPECT_FALSE(Create(WithFiles())->incomplete());
}

TEST_F(ShardedIndexFilesTest, IsFullWhileTooManyRowsWaitForTheirSealing) {
  ShardedIndexOptions options = WithFiles();
  const auto background = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 1});
  options.background = background;
  options.seal_rows = 100;
  options.unsealed_bytes = 0;
  absl::Notification open;
  ASSERT_THAT(background->Submit([&] { open.WaitForNotification(); }), IsOk());
  const auto index = Create(std::move(options));
  Write(*index, 0, 400);
  EXPECT_FALSE(index->is_full());
  Write(*index, 400, 401);
  EXPECT_TRUE(index->is_full());
  open.Notify();
  background->Shutdown();  // Runs what is queued.
  EXPECT_FALSE(index->is_full());
}

TEST_F(ShardedIndexFilesTest, AFlippedByteAnywhereCostsOneShardAtMost) {
  MakeFiles();
  const std::string path = Files("segment-").at(0);
  const std::string good = ValueOrDie(ReadFile(path));
  std::mt19937 random(4);
  for (int i = 0; i < 40; ++i) {
    std::string bad = good;
    const size_t at = i < 10 ? size_t{8} * i : random() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    ASSERT_THAT(WriteFileAtomically(path, bad), IsOk());
    const auto index = Create(WithFiles());
    EXPECT_TRUE(index->incomplete());
    SearchStats stats;
    const RequestContext context(&kClock, "test");
    ASSERT_THAT(index->Search(context, queries_.view(), {}, &stats), IsOk());
    EXPECT_EQ(stats.shards_asked, 2);
    EXPECT_EQ(stats.shards_answered, 1);
    ASSERT_EQ(stats.degraded_reasons.size(), 1u);
    EXPECT_THAT(stats.degraded_reasons[0], testing::HasSubstr("checksum"));
  }
}

TEST_F(ShardedIndexFilesTest, ADamagedIndexIsWholeOnceItIsGivenWhatItLacks) {
  const auto before = MakeFiles();
  fs::resize_file(Files("segment-").at(1), 1000);
  const auto index = Create(WithFiles());
  EXPECT_TRUE(index->incomplete());
  EXPECT_LT(index->size(), kRows);
  for (int64_t i = 0; i < kRows; ++i) {
    if (!index->Contains(absl::StrCat(i))) Write(*index, i, i + 1);
  }
  index->MarkComplete();
  EXPECT_FALSE(index->incomplete());
  EXPECT_EQ(index->size(), kRows);
  Optimize(*index);
  EXPECT_GE(RecallOf(SearchAll(*index), 0, kRows), 0.95 - kNoise);
  EXPECT_FALSE(Create(WithFiles())->incomplete());
}

// How many rows a filter is taken to match decides how wide a graph is
// searched.
TEST_F(ShardedIndexFilesTest, FiltersDoNotCountRowsThatTheFilesLack) {
  {
    const auto index = Create(WithFiles());
    Write(*index, 0, kRows);
    index->MarkApplied(9);
    Optimize(*index);
    const RequestContext context(&kClock, "test");
    bool written = false;
    // The first shard is done by then: what comes to it stays in a delta.
    ASSERT_THAT(index->Optimize(context,
                                [&](float) {
                                  if (!written) Write(*index, 0, 1000);
                                  written = true;
                                }),
                IsOk());
    ASSERT_EQ(saved_, 9u);
  }
  const auto index = Create(WithFiles());
  ASSERT_EQ(index->applied_sequence(), 9u);
  ASSERT_LT(index->size(), kRows);
  EXPECT_THAT(
      PlanOf(*index, "n < 1000"),
      testing::HasSubstr(absl::StrCat("matches ", 1000 - kRows + index->size(),
                                      " of ", index->size(), " items")));
  Write(*index, 0, 1000);
  EXPECT_THAT(PlanOf(*index, "n < 1000"),
              testing::HasSubstr("matches 1000 of 4000 items"));
  Optimize(*index);
  EXPECT_THAT(PlanOf(*Create(WithFiles()), "n < 1000"),
              testing::HasSubstr("matches 1000 of 4000 items"));
}

TEST_F(ShardedIndexFilesTest, FiltersDoNotCountRowsOfADamagedSegment) {
  MakeFiles();
  {
    const auto index = Create(WithFiles());
    ASSERT_THAT(index->Remove({"1", "2", "3"}), IsOk());
    index->MarkComplete();  // So that it is saved.
    Optimize(*index);
  }
  fs::resize_file(Files("segment-").at(1), 1000);
  const auto index = Create(WithFiles());
  ASSERT_TRUE(index->incomplete());
  EXPECT_THAT(PlanOf(*index, "n >= 0"),
              testing::HasSubstr(absl::StrCat("matches ", index->size(), " of ",
                                              index->size(), " items")));
  for (int64_t i = 0; i < kRows; ++i) {
    if (!index->Contains(absl::StrCat(i))) Write(*index, i, i + 1);
  }
  EXPECT_THAT(PlanOf(*index, "n < 1000"),
              testing::HasSubstr("matches 1000 of 4000 items"));
}

TEST_F(ShardedIndexFilesTest, StartsAnewFromFilesThatAreNotItsOwn) {
  MakeFiles();
  const std::string manifest = directory_.File("index/manifest");
  const std::string good = ValueOrDie(ReadFile(manifest));
  const auto expect_anew = [](ShardedIndexOptions options,
                              const std::string& why) {
    const auto index = Create(std::move(options));
    EXPECT_TRUE(index->incomplete());
    EXPECT_EQ(index->size(), 0);
    EXPECT_EQ(index->applied_sequence(), 0u);
    EXPECT_FALSE(index->shards().at(0).available);
    EXPECT_THAT(index->shards().at(0).message, testing::HasSubstr(why));
  };
  ShardedIndexOptions options = WithFiles();
  options.oldest_sequence = 10;
  expect_anew(options, "age");
  expect_anew(WithFiles(/*newest_sequence=*/8), "age");
  options = WithFiles();
  options.metric = Metric::kDotProduct;
  expect_anew(options, "another collection");
  options = WithFiles();
  options.shards = 3;
  expect_anew(options, "2 shards instead of 3");
  options = WithFiles();
  options.fields.clear();
  expect_anew(options, "payload fields");
  fs::remove(Files("fields-").at(0));
  expect_anew(WithFiles(), "fields-");
  for (size_t size = 0; size < good.size(); size += 7) {
    ASSERT_THAT(WriteFileAtomically(manifest, good.substr(0, size)), IsOk());
    expect_anew(WithFiles(), "damaged");
  }
}

TEST_F(ShardedIndexFilesTest, AFlippedByteOfTheManifestOrTheFieldsStartsAnew) {
  const auto before = MakeFiles();
  std::mt19937 random(5);
  for (const std::string& path :
       {Files("manifest").at(0), Files("fields-").at(0)}) {
    const std::string good = ValueOrDie(ReadFile(path));
    for (int i = 0; i < 60; ++i) {
      const size_t at = i < 30 ? i : random() % good.size();
      SCOPED_TRACE(absl::StrCat("byte ", at, " of ", path));
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
      ASSERT_THAT(WriteFileAtomically(path, bad), IsOk());
      const auto index = Create(WithFiles());
      EXPECT_TRUE(index->incomplete());
      EXPECT_EQ(index->size(), 0);
      EXPECT_EQ(index->applied_sequence(), 0u);
    }
    ASSERT_THAT(WriteFileAtomically(path, good), IsOk());
  }
  ExpectSameResults(SearchAll(*Create(WithFiles())), before);
}

// As a later version may write them, with the checksums that they then have.
TEST_F(ShardedIndexFilesTest, FilesOfAnotherFormatAreRefused) {
  MakeFiles();
  const std::string folder = directory_.File("index");
  const std::string manifest_path = Files("manifest").at(0);
  const std::string good_manifest = ValueOrDie(ReadFile(manifest_path));
  const IndexManifest manifest = ValueOrDie(ReadManifest(folder));
  const auto with_version = [](std::string bytes, size_t at) {
    const uint32_t version = 3;
    std::memcpy(bytes.data() + at, &version, sizeof(version));
    return bytes;
  };

  // Behind its magic; its checksum is of what follows.
  ASSERT_THAT(
      WriteFileAtomically(manifest_path, with_version(good_manifest, 8)),
      IsOk());
  auto index = Create(WithFiles());
  EXPECT_TRUE(index->incomplete());
  EXPECT_EQ(index->size(), 0);
  EXPECT_THAT(index->shards().at(0).message,
              testing::HasSubstr("has format 3; this version reads 1 to 2"));

  const std::string fields_path = Files("fields-").at(0);
  const std::string good_fields = ValueOrDie(ReadFile(fields_path));
  std::string fields = with_version(good_fields, 4);
  const size_t checked = fields.size() - sizeof(uint32_t);
  const uint32_t checksum = Checksum(BytesOf(fields).first(checked));
  std::memcpy(fields.data() + checked, &checksum, sizeof(checksum));
  IndexManifest other = manifest;
  other.fields = ValueOrDie(
      WriteIndexFile(fields_path, manifest.fields.id, BytesOf(fields)));
  ASSERT_THAT(WriteManifest(folder, other), IsOk());
  index = Create(WithFiles());
  EXPECT_TRUE(index->incomplete());
  EXPECT_EQ(index->size(), 0);
  EXPECT_THAT(index->shards().at(0).message,
              testing::HasSubstr("format version is 3"));
  ASSERT_THAT(WriteFileAtomically(fields_path, good_fields), IsOk());

  // Costs its shard alone.
  other = manifest;
  IndexManifest::Segment& entry = other.segments.at(0);
  const std::string segment_path = SegmentPath(folder, entry.file.id);
  const std::string segment =
      with_version(ValueOrDie(ReadFile(segment_path)), 8);
  entry.file =
      ValueOrDie(WriteIndexFile(segment_path, entry.file.id, BytesOf(segment)));
  ASSERT_THAT(WriteManifest(folder, other), IsOk());
  index = Create(WithFiles());
  EXPECT_FALSE(index->shards().at(entry.shard).available);
  EXPECT_TRUE(index->shards().at(1 - entry.shard).available);
  EXPECT_THAT(index->shards().at(entry.shard).message,
              testing::HasSubstr("has format 3; this version reads 1"));
}

// Version 1 names no file of queries.
TEST_F(ShardedIndexFilesTest, AManifestOfTheFirstFormatIsRead) {
  const auto before = MakeFiles();
  const std::string path = Files("manifest").at(0);
  std::string bytes = ValueOrDie(ReadFile(path));
  constexpr size_t kHead = 16;
  constexpr size_t kFile = 20;
  // Behind the field index's.
  bytes.erase(kHead + 40 + kFile, kFile);
  const uint32_t head[] = {1, Checksum(BytesOf(bytes).subspan(kHead))};
  std::memcpy(bytes.data() + kHead - sizeof(head), head, sizeof(head));
  ASSERT_THAT(WriteFileAtomically(path, bytes), IsOk());
  const auto index = Create(WithFiles());
  EXPECT_FALSE(index->incomplete());
  ExpectSameResults(SearchAll(*index), before);
}

TEST_F(ShardedIndexFilesTest, SegmentsThatShareRowsAreRefused) {
  MakeFiles();
  const std::string folder = directory_.File("index");
  IndexManifest manifest = ValueOrDie(ReadManifest(folder));
  manifest.segments.push_back(manifest.segments.front());
  ASSERT_THAT(WriteManifest(folder, manifest), IsOk());
  const auto index = Create(WithFiles());
  EXPECT_TRUE(index->incomplete());
  EXPECT_EQ(index->size(), 0);
}

TEST_F(ShardedIndexFilesTest, GraphsAreCalibratedByQueriesOfBeforeARestart) {
  // Of each segment.
  const auto real_queries = [&] {
    std::vector<uint32_t> counts;
    for (const std::string& path : Files("segment-")) {
      SegmentHeader header;
      const std::string bytes = ValueOrDie(ReadFile(path));
      std::memcpy(&header, bytes.data(), sizeof(header));
      counts.push_back(header.calibration.real_queries);
    }
    return counts;
  };
  using testing::Each;
  MakeFiles();
  EXPECT_THAT(real_queries(), Each(0u));
  EXPECT_THAT(Files("queries-"), testing::IsEmpty());
  {
    const auto index = Create(WithFiles());
    SearchAll(*index, {.source = std::nullopt});  // Vectors that it knows.
    Optimize(*index);
    EXPECT_THAT(real_queries(), Each(0u));
    SearchAll(*index, {.source = QuerySource::kText});
    Write(*index, 0, 100);
    index->MarkApplied(10);
    Optimize(*index);
    EXPECT_THAT(real_queries(), Each(static_cast<uint32_t>(kQueries)));
    for (const ShardInfo& shard : index->shards()) {
      EXPECT_EQ(shard.real_queries, kQueries);
      EXPECT_GT(shard.stored_queries, 0u);
      EXPECT_GE(shard.effort, 10u);
      EXPECT_EQ(shard.depth, 0u);
    }
    const std::vector<std::string> segments = Files("segment-");
    SearchAll(*index, {.source = QuerySource::kMedia});
    Optimize(*index);  // Once is enough.
    EXPECT_EQ(Files("segment-"), segments);
  }
  const std::vector<std::string> queries = Files("queries-");
  ASSERT_EQ(queries.size(), 1u);
  {
    const auto index = Create(WithFiles());
    Write(*index, 0, 100);
    index->MarkApplied(11);
    Optimize(*index);
    EXPECT_THAT(real_queries(), Each(static_cast<uint32_t>(kQueries)));
    EXPECT_EQ(Files("queries-"), queries);
  }
  // Damage costs the queries alone.
  std::string bytes = ValueOrDie(ReadFile(queries.front()));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  ASSERT_THAT(WriteFileAtomically(queries.front(), bytes), IsOk());
  const auto index = Create(WithFiles());
  EXPECT_FALSE(index->incomplete());
  EXPECT_EQ(index->size(), kRows);
  Write(*index, 0, 100);
  index->MarkApplied(12);
  Optimize(*index);
  EXPECT_THAT(real_queries(), Each(0u));
}

// A graph from before there were queries is made again for them, as asked.
TEST_F(ShardedIndexFilesTest, OptimizeCalibratesForTheQueriesThatCame) {
  MakeFiles();
  const std::vector<std::string> segments = Files("segment-");
  const auto index = Create(WithFiles());
  Optimize(*index);
  EXPECT_EQ(Files("segment-"), segments);
  SearchAll(*index);
  Optimize(*index);
  for (const std::string& path : Files("segment-")) {
    EXPECT_THAT(segments, testing::Not(testing::Contains(path)));
  }
}

TEST_F(ShardedIndexFilesTest, ASegmentOfAnEarlierGenerationIsRefused) {
  MakeFiles();
  const std::string mine = Files("segment-").at(0);
  const std::string theirs = ValueOrDie(ReadFile(mine));
  fs::remove_all(directory_.File("index"));
  MakeFiles();
  ASSERT_EQ(Files("segment-").at(0), mine);
  ASSERT_THAT(WriteFileAtomically(mine, theirs), IsOk());
  EXPECT_TRUE(Create(WithFiles())->incomplete());
}

TEST_F(ShardedIndexFilesTest, DeadRowsThatASegmentDoesNotHaveAreRefused) {
  const std::string folder = directory_.File("index");
  MakeFiles();
  IndexManifest manifest = ValueOrDie(ReadManifest(folder));
  uint64_t rows = 0;
  const auto entry =
      std::find_if(manifest.segments.begin(), manifest.segments.end(),
                   [&](const IndexManifest::Segment& segment) {
                     const HugeBuffer image = ValueOrDie(ReadIndexFile(
                         SegmentPath(folder, segment.file.id), segment.file));
                     SegmentHeader header;
                     std::memcpy(&header, image.data(), sizeof(header));
                     rows = header.rows;
                     return rows % 64 != 0;
                   });
  ASSERT_NE(entry, manifest.segments.end());
  entry->dead.assign((rows + 63) / 64, 0);
  entry->dead.back() = uint64_t{1} << (rows % 64 - 1);
  ASSERT_THAT(WriteManifest(folder, manifest), IsOk());
  EXPECT_EQ(Create(WithFiles())->size(), kRows - 1);
  entry->dead.back() = uint64_t{1} << (rows % 64);
  ASSERT_THAT(WriteManifest(folder, manifest), IsOk());
  EXPECT_TRUE(Create(WithFiles())->incomplete());
}

// In a server that has taken billions of writes.
TEST_F(ShardedIndexFilesTest, FiltersTakeHighRowNumbers) {
  MakeFiles();
  IndexManifest manifest = ValueOrDie(ReadManifest(directory_.File("index")));
  manifest.next_row = 3'000'000'000;
  ASSERT_THAT(WriteManifest(directory_.File("index"), manifest), IsOk());
  const auto index = Create(WithFiles());
  Write(*index, 10, 100);
  for (const bool sealed : {false, true}) {
    if (sealed) Optimize(*index);
    EXPECT_THAT(PlanOf(*index, "n < 20"),
                testing::HasSubstr("matches 20 of 4000 items"));
    const auto filter = ValueOrDie(ParseFilter("n < 20", fields_));
    EXPECT_EQ(RecallOf(SearchAll(*index, {.filter = filter}), 0, 20), 1);
  }
}

TEST_F(ShardedIndexFilesTest, RowNumbersComeBackWhenItIsOpened) {
  ShardedIndexOptions options = WithFiles();
  options.max_row_numbers = 2000;
  {
    const auto index = Create(options);
    for (int i = 0; i < 15; ++i) Write(*index, 0, 100);
    index->MarkApplied(9);
    Optimize(*index);
  }
  {
    const auto index = Create(options);
    EXPECT_FALSE(index->incomplete());
    for (int i = 0; i < 5; ++i) Write(*index, 0, 100);
    index->MarkApplied(10);
    const std::vector<float> one(kDimension, 1);
    EXPECT_THAT(
        index->Upsert({"x"},
                      {.data = one.data(), .rows = 1, .columns = kDimension}),
        StatusIs(absl::StatusCode::kResourceExhausted,
                 testing::HasSubstr("restart the server")));
    EXPECT_EQ(index->size(), 100);
    Optimize(*index);
  }
  const auto index = Create(options);
  EXPECT_TRUE(index->incomplete());
  EXPECT_EQ(index->applied_sequence(), 0u);
  EXPECT_THAT(index->shards().at(0).message, testing::HasSubstr("row numbers"));
  for (int i = 0; i < 20; ++i) Write(*index, 0, 100);
  EXPECT_EQ(index->size(), 100);
}

TEST_F(ShardedIndexFilesTest, LinkedFilesOpenElsewhere) {
  const auto before = MakeFiles();
  {
    const auto index = Create(WithFiles());
    const RequestContext context(&kClock, "test");
    ASSERT_THAT(
        index->LinkFiles(context, directory_.File("copy"), absl::OkStatus),
        IsOk());
    Write(*index, 0, 100);
    Optimize(*index);
  }
  ShardedIndexOptions options = WithFiles();
  options.directory = directory_.File("copy");
  ExpectSameResults(SearchAll(*Create(std::move(options))), before);
}

TEST_F(ShardedIndexFilesTest, NothingIsSavedWhileLinkedFilesAreInUse) {
  MakeFiles();
  ShardedIndexOptions options = WithFiles();
  absl::Notification saved;
  options.saved = [&saved](uint64_t /*sequence*/) { saved.Notify(); };
  const auto index = Create(std::move(options));
  Write(*index, 0, 10);
  index->MarkApplied(10);
  std::thread saver;
  const RequestContext context(&kClock, "test");
  ASSERT_THAT(
      index->LinkFiles(context, directory_.File("copy"),
                       [&] {
                         saver = std::thread([&] { Optimize(*index); });
                         // Long enough for the save to come, if it may.
                         EXPECT_FALSE(saved.WaitForNotificationWithTimeout(
                             absl::Milliseconds(300)));
                         return absl::CancelledError("then");
                       }),
      StatusIs(absl::StatusCode::kCancelled));
  saver.join();
  EXPECT_TRUE(saved.HasBeenNotified());
}

// Checksums do not stop whoever makes files on purpose: what a search relies on
// is checked as well.
class HostileSegmentTest : public ShardedIndexTest {
 protected:
  // The file of a segment of 1,200 rows.
  std::string MakeSegment(IndexKind kind) {
    ShardedIndexOptions options = Options(kind, VectorStorage::kInt8);
    options.directory = directory_.File("index");
    const auto index = Create(options);
    Write(*index, 0, 1200);
    Optimize(*index);
    for (const auto& entry : fs::directory_iterator(options.directory)) {
      if (absl::StrContains(entry.path().string(), "segment-")) {
        return ValueOrDie(ReadFile(entry.path().string()));
      }
    }
    return "";
  }

  static absl::StatusOr<std::shared_ptr<Segment>> Parse(
      const std::string& bytes) {
    HugeBuffer image = ValueOrDie(HugeBuffer::Create(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), image.data());
    return Segment::Parse(std::move(image));
  }

  // In the segment's own ways.
  void Search(const std::shared_ptr<const Segment>& segment) const {
    const IndexPart part{.segment = segment, .rows = segment->rows()};
    const RequestContext context(&kClock, "test");
    const VectorReader none;
    const BinaryCoder coder(kDimension);
    const SearchRunOptions index{.reader = &none, .coder = &coder};
    Matrix query(1, kDimension);
    std::copy_n(queries_.row(0).begin(), kDimension, query.row(0).begin());
    for (const int64_t k : {1, 10, 100}) {
      const VectorSearchOptions options{.k = k};
      SearchRun run(index, context, {&part, 1}, query, options);
      EXPECT_THAT(run.Run(), IsOk());
    }
  }
};

TEST_F(HostileSegmentTest, IsRefusedOrSearchedSafely) {
  const std::string good = MakeSegment(IndexKind::kHnsw);
  ASSERT_THAT(Parse(good), IsOk());
  std::mt19937 random(6);
  const RequestContext context(&kClock, "test");
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::string bad = good;
    for (int flips = 1 + i % 3; flips > 0; --flips) {
      const size_t limit = i % 2 == 0 ? sizeof(SegmentHeader) : bad.size();
      bad[random() % limit] = static_cast<char>(random());
    }
    const auto segment = Parse(bad);
    if (!segment.ok()) {
      ++refused;
      continue;
    }
    if ((*segment)->header().dimension != kDimension) continue;
    Search(*segment);
    const IndexPart part{.segment = *segment, .rows = (*segment)->rows()};
    const EncodedQuery query(queries_.row(0));
    Candidates candidates(10, {&part, 1});
    if (!(*segment)->graph().empty()) {
      const SearchedPart searched{.part = part};
      std::vector<ScoredRow> found;
      EXPECT_THAT(SearchGraph(context, searched, query, 50, &found), IsOk());
      AddFound(searched, query, found, candidates);
    }
    EXPECT_THAT(
        candidates.Take(query, Metric::kCosine, {nullptr}, ErrorSigmas(0.9F)),
        IsOk());
    (void)(*segment)->Find("17");
    (void)(*segment)->PointFor(0.9F);
  }
  EXPECT_GT(refused, 100);
}

TEST_F(HostileSegmentTest, WaysToSearchItThatLeadNowhereAreRefused) {
  constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();
  for (const IndexKind kind : {IndexKind::kHnsw, IndexKind::kIvfPq}) {
    const std::string good = MakeSegment(kind);
    const auto with = [&good](auto change) {
      SegmentHeader header;
      std::memcpy(&header, good.data(), sizeof(header));
      change(header.calibration);
      std::string bad = good;
      std::memcpy(bad.data(), &header, sizeof(header));
      return Parse(bad);
    };
    const auto with_point = [&](const OperatingPoint& point) {
      return with([&point](SegmentCalibration& calibration) {
        calibration.point[calibration.points - 1] = point;
      });
    };
    const OperatingPoint fine{.effort = 1, .depth = 1, .recall = 0.96F};
    const auto segment = with_point(fine);
    ASSERT_THAT(segment, IsOk());
    ASSERT_GE((*segment)->calibration().points, 1u);
    Search(*segment);
    for (const uint32_t effort : {0U, (1U << 20) + 1, 0xFFFFFFFFU}) {
      OperatingPoint point = fine;
      point.effort = effort;
      EXPECT_THAT(with_point(point), StatusIs(absl::StatusCode::kDataLoss));
    }
    for (const uint32_t depth : {0U, (1U << 20) + 1, 0xFFFFFFFFU}) {
      if (depth == 0 && kind == IndexKind::kHnsw) continue;  // Has no depth.
      OperatingPoint point = fine;
      point.depth = depth;
      EXPECT_THAT(with_point(point), StatusIs(absl::StatusCode::kDataLoss));
    }
    for (const float recall : {kNotANumber, -0.5F, 1.5F}) {
      OperatingPoint point = fine;
      point.recall = recall;
      EXPECT_THAT(with_point(point), StatusIs(absl::StatusCode::kDataLoss));
      EXPECT_THAT(with([recall](SegmentCalibration& calibration) {
                    const RequestContext context(&kClock, "test");
                    calibration.target_recall = recall;
                  }),
                  StatusIs(absl::StatusCode::kDataLoss));
      EXPECT_THAT(with([recall](SegmentCalibration& calibration) {
                    calibration.measured_recall = recall;
                  }),
                  StatusIs(absl::StatusCode::kDataLoss));
    }
    EXPECT_THAT(with([](SegmentCalibration& calibration) {
                  calibration.points = kMaxOperatingPoints + 1;
                }),
                StatusIs(absl::StatusCode::kDataLoss));
    fs::remove_all(directory_.File("index"));
  }
}

// Writers, searches, and merges side by side; then everything is as if it had
// been written in one go.
TEST_F(ShardedIndexTest, WritesAndSearchesGoOnWhileSegmentsAreMade) {
  ShardedIndexOptions options = Options(IndexKind::kHnsw, VectorStorage::kInt8);
  options.shards = 2;
  options.seal_rows = 300;
  options.min_ann_rows = 600;
  options.directory = directory_.File("index");
  options.background = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 2});
  options.crew = std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 2});
  options.min_crew_bytes = 0;
  const auto index = Create(options);
  constexpr int64_t kWritten = 2000;
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const RequestContext context(&kClock, "test");
      while (!stop) {
        SearchStats stats;
        const auto results = index->Search(
            context,
            {.data = queries_.row(t).data(), .rows = 1, .columns = kDimension},
            {.k = 20}, &stats);
        ASSERT_THAT(results, IsOk());
        std::set<std::string> ids;
        for (const ScoredId& hit : results->front()) {
          EXPECT_TRUE(ids.insert(hit.id).second) << hit.id << " came twice";
        }
      }
    });
  }
  for (int64_t i = 0; i < kWritten; i += 50) {
    Write(*index, i, i + 50);
    // Replace some of what came before, and take one away.
    Write(*index, i / 2, i / 2 + 10);
    ASSERT_THAT(index->Remove({absl::StrCat(i)}), IsOk());
  }
  for (int64_t i = 0; i < kWritten; i += 50) Write(*index, i, i + 1);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(index->size(), kWritten);
  const auto results = SearchAll(*index, {.exact = true});
  EXPECT_EQ(RecallOf(results, 0, kWritten), 1);
  Optimize(*index);
  EXPECT_EQ(index->size(), kWritten);
  EXPECT_EQ(RecallOf(SearchAll(*index, {.exact = true}), 0, kWritten), 1);
}

}  // namespace
}  // namespace quern
