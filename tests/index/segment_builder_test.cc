#include "engine/index/segment_builder.h"

#include <algorithm>
#include <memory>
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
  static std::shared_ptr<const Segment> Build(const Matrix& vectors,
                                              MatrixView real_queries,
                                              float target = 0.95F) {
    const auto delta = std::make_shared<Delta>(
        kDimension, std::make_shared<const BinaryCoder>(kDimension), 0);
    for (int64_t i = 0; i < vectors.rows(); ++i) {
      delta->Append(IdOf(i), static_cast<uint32_t>(i), vectors.row(i));
    }
    const IndexPart part{.delta = delta, .rows = vectors.rows()};
    return ValueOrDie(BuildSegment({.dimension = kDimension,
                                    .kind = IndexKind::kHnsw,
                                    .target_recall = target,
                                    .min_ann_rows = 1000},
                                   {&part, 1}, real_queries, nullptr,
                                   absl::OkStatus));
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

TEST_F(SegmentBuilderTest, RealQueriesCountOnceAndOnlyIfTheyAreMany) {
  Matrix repeated(100, kDimension);
  for (const int64_t distinct : {19, 20}) {
    for (int64_t i = 0; i < repeated.rows(); ++i) {
      std::copy_n(like_rows_.row(i % distinct).data(), kDimension,
                  repeated.row(i).data());
    }
    EXPECT_EQ(Build(vectors_, repeated.view())->calibration().real_queries,
              distinct < 20 ? 0 : distinct);
  }
}

// Queries that one half lacks are in the other: a wider beam is to serve both.
TEST_F(SegmentBuilderTest, BeamIsWidenedUntilTheQueriesHeldOutAreServed) {
  const auto segment =
      Build(vectors_, InTurns(like_rows_, unlike_rows_).view());
  ASSERT_EQ(segment->kind(), IndexKind::kHnsw);
  const SegmentCalibration& calibration = segment->calibration();
  EXPECT_EQ(calibration.real_queries, 200);
  EXPECT_GE(calibration.measured_recall, 0.95F);
  // The graph has got the rows since that were held out.
  EXPECT_GE(RecallOf(segment, vectors_, unlike_rows_), 0.95F - 0.01F);
  const auto without = Build(vectors_, like_rows_.view());
  EXPECT_LT(RecallOf(without, vectors_, unlike_rows_), 0.95F - 0.01F);
  // A cheaper point promises no more than was measured.
  for (uint32_t i = 1; i < calibration.points; ++i) {
    EXPECT_LT(calibration.point[i - 1].recall, calibration.point[i].recall);
    EXPECT_LT(calibration.point[i - 1].effort, calibration.point[i].effort);
  }
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
  EXPECT_EQ(Build(vectors, like_rows_.view(), 0.85F)->kind(), IndexKind::kHnsw);
  const auto segment = Build(vectors, InTurns(like_rows_, near).view(), 0.85F);
  EXPECT_EQ(segment->kind(), IndexKind::kExact);
  EXPECT_EQ(segment->calibration().fell_to_exact, 1u);
  EXPECT_EQ(segment->calibration().measured_recall, 1);
}

}  // namespace
}  // namespace quern
