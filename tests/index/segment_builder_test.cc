#include "engine/index/segment_builder.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/index/clustered_vectors.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 32;
constexpr int64_t kRows = 4000;
constexpr int64_t kCentres = 200;

// Of one length, in no order: which of equal rows are the best is not to depend
// on when a graph was given them.
std::string IdOf(int64_t row) {
  constexpr int64_t kPrime = 100'003;
  return absl::StrCat(kPrime + row * 7919 % kPrime);
}

class SegmentBuilderTest : public testing::Test {
 protected:
  static std::shared_ptr<const Segment> Build(
      const Matrix& vectors, const std::vector<Matrix>& real_queries,
      float target = 0.95F) {
    return Merge({DeltaOf(vectors, 0, vectors.rows())}, real_queries, target);
  }

  static IndexPart DeltaOf(const Matrix& vectors, int64_t first, int64_t last) {
    const auto delta = std::make_shared<Delta>(
        kDimension, std::make_shared<const BinaryCoder>(kDimension), 0);
    for (int64_t i = first; i < last; ++i) {
      delta->Append(IdOf(i), static_cast<uint32_t>(i), vectors.row(i));
    }
    return {.delta = delta, .rows = last - first};
  }

  static std::shared_ptr<const Segment> Merge(
      const std::vector<IndexPart>& parts,
      const std::vector<Matrix>& real_queries, float target = 0.95F,
      const std::function<absl::Status()>& check = absl::OkStatus) {
    return ValueOrDie(BuildSegment({.dimension = kDimension,
                                    .kind = IndexKind::kHnsw,
                                    .target_recall = target,
                                    .min_ann_rows = 1000},
                                   parts, real_queries, nullptr, check));
  }

  // How often a merge looked whether it is to go on: each time a row is linked,
  // and about as often for everything else, however many rows there are.
  static int64_t Steps(const std::vector<IndexPart>& parts) {
    std::atomic<int64_t> steps = 0;
    Merge(parts, {}, 0.95F, [&steps] {
      ++steps;
      return absl::OkStatus();
    });
    return steps;
  }

  static IndexPart Kill(IndexPart part,
                        const std::function<bool(int64_t row)>& dies) {
    auto dead = std::make_shared<std::vector<uint64_t>>((part.rows + 63) / 64);
    for (int64_t row = 0; row < part.rows; ++row) {
      if (!dies(row)) continue;
      (*dead)[row / 64] |= uint64_t{1} << (row % 64);
      ++part.dead_rows;
    }
    part.dead = dead;
    return part;
  }

  // Of a search with the beam that the segment has for its target.
  static float RecallOf(const std::shared_ptr<const Segment>& segment,
                        const Matrix& vectors, const Matrix& queries) {
    const RealClock clock;
    const RequestContext context(&clock, "test");
    const IndexPart part{.segment = segment, .rows = segment->rows()};
    const OperatingPoint* const point = segment->PointFor(std::nullopt);
    int64_t found = 0;
    for (int64_t q = 0; q < queries.rows(); ++q) {
      std::vector<std::pair<float, uint32_t>> all;
      for (int64_t i = 0; i < vectors.rows(); ++i) {
        all.emplace_back(-InnerProduct(vectors.row(i).data(),
                                       queries.row(q).data(), kDimension),
                         static_cast<uint32_t>(i));
      }
      std::partial_sort(all.begin(), all.begin() + 10, all.end());
      std::vector<ScoredRow> rows;
      EXPECT_THAT(
          SearchGraph(context, {.part = part}, EncodedQuery(queries.row(q)),
                      point->effort, &rows),
          IsOk());
      rows.resize(10);
      for (const ScoredRow& row : rows) {
        found += std::any_of(all.begin(), all.begin() + 10,
                             [&](const auto& x) { return x.second == row.row; })
                     ? 1
                     : 0;
      }
    }
    return static_cast<float>(found) / static_cast<float>(10 * queries.rows());
  }

  static Matrix First(int64_t count, const Matrix& of) {
    Matrix first(count, kDimension);
    std::copy_n(of.data(), count * kDimension, first.data());
    return first;
  }

  // The first of `a`, the first of `b`, the second of `a`, and so on: `a` picks
  // what `b` is the measure of.
  static Matrix InTurns(const Matrix& a, const Matrix& b) {
    Matrix both(2 * a.rows(), kDimension);
    for (int64_t i = 0; i < a.rows(); ++i) {
      std::copy_n(a.row(i).data(), kDimension, both.row(2 * i).data());
      std::copy_n(b.row(i).data(), kDimension, both.row(2 * i + 1).data());
    }
    return both;
  }

  const Matrix vectors_ = ClusteredVectors(kRows, kDimension, kCentres, 2);
  const Matrix like_rows_ = ClusteredVectors(100, kDimension, kCentres, 3);
  // Of other centres: between the clusters, where a graph finds less.
  const Matrix unlike_rows_ = ClusteredVectors(100, kDimension, 100, 4, 5);
};

TEST_F(SegmentBuilderTest, RealQueriesOfASourceCountOnlyIfTheyAreMany) {
  const auto counted = [&](const std::vector<Matrix>& sources) {
    return Build(vectors_, sources)->calibration().real_queries;
  };
  EXPECT_EQ(counted({}), 0u);
  EXPECT_EQ(counted({First(19, like_rows_), First(19, like_rows_)}), 0u);
  EXPECT_EQ(counted({First(20, like_rows_), First(19, like_rows_)}), 20u);
  EXPECT_EQ(counted({First(20, like_rows_), First(30, like_rows_)}), 50u);
}

// However many the others are.
TEST_F(SegmentBuilderTest, TheSourceThatIsServedWorstCounts) {
  const Matrix few = First(20, unlike_rows_);
  const auto segment = Build(vectors_, {like_rows_, few});
  const auto without = Build(vectors_, {like_rows_});
  ASSERT_EQ(segment->kind(), IndexKind::kHnsw);
  EXPECT_GT(segment->PointFor(std::nullopt)->effort,
            without->PointFor(std::nullopt)->effort);
  EXPECT_GE(RecallOf(segment, vectors_, few), 0.95F);
}

// Queries that one half lacks are in the other: a wider beam is to serve both.
TEST_F(SegmentBuilderTest, BeamIsWidenedUntilTheQueriesHeldOutAreServed) {
  const auto segment = Build(vectors_, {InTurns(like_rows_, unlike_rows_)});
  ASSERT_EQ(segment->kind(), IndexKind::kHnsw);
  const SegmentCalibration& calibration = segment->calibration();
  EXPECT_EQ(calibration.real_queries, 200);
  EXPECT_GE(calibration.measured_recall, 0.95F);
  // The graph has got the rows since that were held out.
  EXPECT_GE(RecallOf(segment, vectors_, unlike_rows_), 0.95F - 0.01F);
  const auto without = Build(vectors_, {like_rows_});
  EXPECT_LT(RecallOf(without, vectors_, unlike_rows_), 0.95F - 0.01F);
  // A cheaper point promises no more than was measured.
  for (uint32_t i = 1; i < calibration.points; ++i) {
    EXPECT_LT(calibration.point[i - 1].recall, calibration.point[i].recall);
    EXPECT_LT(calibration.point[i - 1].effort, calibration.point[i].effort);
  }
}

// Rows of a graph that is there are not linked again.
TEST_F(SegmentBuilderTest, GoesOnWithTheGraphOfTheLargestPart) {
  const auto large = Merge({DeltaOf(vectors_, 0, 2800)}, {});
  const auto small = Merge({DeltaOf(vectors_, 2800, 3900)}, {});
  const std::vector<IndexPart> parts = {
      {.segment = small, .rows = small->rows()},
      {.segment = large, .rows = large->rows()},
      DeltaOf(vectors_, 3900, kRows)};
  const auto merged = Merge(parts, {like_rows_});
  ASSERT_EQ(merged->kind(), IndexKind::kHnsw);
  ASSERT_EQ(merged->rows(), kRows);
  EXPECT_GE(merged->calibration().measured_recall, 0.95F);
  EXPECT_GE(RecallOf(merged, vectors_, like_rows_), 0.95F - 0.01F);
  // As good a graph as one made at once.
  const auto at_once = Build(vectors_, {like_rows_});
  EXPECT_LE(merged->PointFor(std::nullopt)->effort,
            2 * at_once->PointFor(std::nullopt)->effort);
  const int64_t all = Steps({DeltaOf(vectors_, 0, kRows)});
  EXPECT_LT(Steps(parts), all - 2000);
  // Alone it is but calibrated again.
  EXPECT_LT(Steps({{.segment = merged, .rows = merged->rows()}}), all - 3000);
}

TEST_F(SegmentBuilderTest, DeadRowsLeaveAGraphThatIsAdopted) {
  const auto large = Merge({DeltaOf(vectors_, 0, 3000)}, {});
  const IndexPart some_dead = Kill({.segment = large, .rows = large->rows()},
                                   [](int64_t row) { return row % 3 == 0; });
  const IndexPart many_dead = Kill({.segment = large, .rows = large->rows()},
                                   [](int64_t row) { return row % 3 != 0; });
  const IndexPart rest = DeltaOf(vectors_, 3000, kRows);
  const auto merged = Merge({some_dead, rest}, {like_rows_});
  ASSERT_EQ(merged->kind(), IndexKind::kHnsw);
  ASSERT_EQ(merged->rows(), kRows - 1000);
  EXPECT_GE(merged->calibration().measured_recall, 0.95F);
  for (int64_t row = 0; row < 3000; ++row) {
    EXPECT_EQ(merged->Find(IdOf(row)).has_value(), row % 3 != 0);
  }
  // A row is linked in a step.
  EXPECT_LT(Steps({some_dead, rest}), Steps({many_dead, rest}));
}

// All rows are written again, a third of them at a time: a graph that was
// mended as often finds as much with as narrow a beam as a new one.
TEST_F(SegmentBuilderTest, AGraphStaysAsGoodAsNewWhileRowsComeAndGo) {
  // Of many dimensions: a graph needs all of its links.
  const Matrix vectors = ClusteredVectors(kRows, kDimension, kRows, 6);
  const Matrix queries = ClusteredVectors(200, kDimension, 200, 7);
  std::mt19937 random(11);
  auto segment = Merge({DeltaOf(vectors, 0, kRows)}, {queries});
  for (int round = 0; round < 6; ++round) {
    const auto again = std::make_shared<Delta>(
        kDimension, std::make_shared<const BinaryCoder>(kDimension), 0);
    const IndexPart rest =
        Kill({.segment = segment, .rows = segment->rows()}, [&](int64_t row) {
          if (random() % 3 != 0) return false;
          std::vector<float> vector(kDimension);
          DecodeRow(segment->codes(), row, absl::MakeSpan(vector));
          again->Append(segment->id(row), kRows * (round + 1) + row, vector);
          return true;
        });
    segment = Merge({rest, {.delta = again, .rows = again->rows()}}, {queries});
    ASSERT_EQ(segment->kind(), IndexKind::kHnsw);
    ASSERT_EQ(segment->rows(), kRows);
  }
  EXPECT_GE(segment->calibration().measured_recall, 0.95F);
  const auto at_once = Build(vectors, {queries});
  EXPECT_LE(segment->PointFor(std::nullopt)->effort * 5,
            at_once->PointFor(std::nullopt)->effort * 6);
}

TEST_F(SegmentBuilderTest, FallsToExactWhereTheQueriesHeldOutAreNotServed) {
  // An eleventh of the rows are one and the same, more than any beam is wide:
  // which ten of them have the least ids no graph can tell.
  constexpr int64_t kSame = 1800;
  Matrix vectors = ClusteredVectors(20'000, kDimension, kCentres, 2);
  for (int64_t i = 0; i < kSame; ++i) {
    std::copy_n(unlike_rows_.row(0).data(), kDimension,
                vectors.row(11 * i).data());
  }
  Matrix near(100, kDimension);
  for (int64_t i = 0; i < near.rows(); ++i) {
    for (int64_t j = 0; j < kDimension; ++j) {
      near.row(i)[j] =
          unlike_rows_.row(0)[j] * (1 + static_cast<float>(i) / 100);
    }
  }
  EXPECT_EQ(Build(vectors, {like_rows_}, 0.85F)->kind(), IndexKind::kHnsw);
  const auto segment = Build(vectors, {InTurns(like_rows_, near)}, 0.85F);
  EXPECT_EQ(segment->kind(), IndexKind::kExact);
  EXPECT_EQ(segment->calibration().fell_to_exact, 1u);
  EXPECT_EQ(segment->calibration().measured_recall, 1);
}

}  // namespace
}  // namespace quern
