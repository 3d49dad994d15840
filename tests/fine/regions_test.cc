// The parts of image grounding, each against values worked out by hand, another
// way of computing them, or brute force.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/fine/best_box.h"
#include "engine/fine/cosine_map.h"
#include "engine/fine/overlap.h"
#include "engine/fine/presence.h"
#include "engine/fine/region_grounder.h"
#include "engine/fine/score_map.h"
#include "engine/fine/suppression.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::SizeIs;

std::vector<float> RandomValues(size_t count, int seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>(random() % 2001) / 1000 - 1;
  }
  return values;
}

ScoreMap RandomMap(int64_t height, int64_t width, int seed) {
  return {.height = height,
          .width = width,
          .scores = RandomValues(height * width, seed)};
}

double SumOf(const ScoreMap& map, const CellBox& box) {
  double sum = 0;
  for (int64_t row = box.top; row < box.bottom; ++row) {
    for (int64_t column = box.left; column < box.right; ++column) {
      sum += map.at(row, column);
    }
  }
  return sum;
}

// Every box of a map.
std::vector<CellBox> AllBoxes(const ScoreMap& map) {
  std::vector<CellBox> boxes;
  for (int64_t top = 0; top < map.height; ++top) {
    for (int64_t bottom = top + 1; bottom <= map.height; ++bottom) {
      for (int64_t left = 0; left < map.width; ++left) {
        for (int64_t right = left + 1; right <= map.width; ++right) {
          boxes.push_back({left, top, right, bottom});
        }
      }
    }
  }
  return boxes;
}

TEST(OverlapTest, IsTheShareOfTheUnion) {
  const Box a = {.left = 0, .top = 0, .right = 0.5F, .bottom = 0.5F};
  const Box b = {.left = 0.25F, .top = 0, .right = 0.75F, .bottom = 0.5F};
  EXPECT_DOUBLE_EQ(Iou(a, b), 1.0 / 3);
  EXPECT_DOUBLE_EQ(Iou(a, a), 1);
  EXPECT_DOUBLE_EQ(Iou(a, {.left = 0.5F, .top = 0.5F, .right = 1, .bottom = 1}),
                   0);
  EXPECT_DOUBLE_EQ(Iou(Box(), Box()), 0);
  EXPECT_DOUBLE_EQ(Iou(TimeSpan{0, 4}, TimeSpan{2, 6}), 1.0 / 3);
  EXPECT_DOUBLE_EQ(Iou(TimeSpan{1, 1}, TimeSpan{1, 1}), 0);
}

TEST(CosineMapTest, EqualsTheScalarCosineAtEveryWidth) {
  for (const int64_t width : {1, 15, 16, 17, 100, 512}) {
    constexpr int64_t kRows = 5;
    const std::vector<float> cells = RandomValues(kRows * width, 1);
    std::vector<float> query = RandomValues(width, 2);
    double squares = 0;
    for (const float value : query) squares += double{value} * value;
    for (float& value : query) {
      value = static_cast<float>(value / std::sqrt(squares));
    }
    std::vector<float> scores(kRows);
    CosineMap({.data = cells.data(), .rows = kRows, .columns = width}, query,
              absl::MakeSpan(scores));
    for (int64_t row = 0; row < kRows; ++row) {
      double product = 0, norm = 0;
      for (int64_t i = 0; i < width; ++i) {
        const double value = cells[row * width + i];
        product += value * query[i];
        norm += value * value;
      }
      const double expected = norm > 0 ? product / std::sqrt(norm) : 0;
      EXPECT_NEAR(scores[row], expected, 1e-5) << width;
    }
  }
}

TEST(CosineMapTest, NormsAndSumsAreThoseOfTheScalarLoopAtEveryWidth) {
  for (const int64_t width : {1, 15, 16, 17, 31, 64, 100, 512}) {
    const std::vector<float> row = RandomValues(width, 1);
    const std::vector<float> before = RandomValues(width, 2);
    double squares = 0;
    for (const float value : row) squares += double{value} * value;
    EXPECT_NEAR(SquaredNorm(row), squares, 1e-6 * squares) << width;

    std::vector<float> sum = before;
    AddScaled(row, -1.5F, absl::MakeSpan(sum));
    for (int64_t i = 0; i < width; ++i) {
      EXPECT_NEAR(sum[i], before[i] - 1.5 * row[i], 1e-6) << width;
    }
  }
}

TEST(CosineMapTest, ACellOfZerosHasNoDirection) {
  const std::vector<float> cells = {0, 0, 3, 4};
  const std::vector<float> query = {0.6F, 0.8F};
  std::vector<float> scores(2);
  CosineMap({.data = cells.data(), .rows = 2, .columns = 2}, query,
            absl::MakeSpan(scores));
  EXPECT_THAT(scores, ElementsAre(0, FloatNear(1, 1e-6)));
}

TEST(IntegralImageTest, SumsEveryBox) {
  const ScoreMap map = RandomMap(5, 4, 3);
  const IntegralImage sums(map, 0.25);
  for (const CellBox& box : AllBoxes(map)) {
    EXPECT_NEAR(sums.Sum(box),
                SumOf(map, box) - 0.25 * static_cast<double>(box.area()), 1e-5);
  }
}

TEST(BestBoxTest, IsTheBestOfAllBoxes) {
  for (int seed = 0; seed < 20; ++seed) {
    const ScoreMap map = RandomMap(6, 5, seed);
    const double threshold = 0.2;
    const auto worth = [&](const CellBox& box) {
      return SumOf(map, box) - threshold * static_cast<double>(box.area());
    };
    double best = -1e9;
    for (const CellBox& box : AllBoxes(map)) best = std::max(best, worth(box));
    EXPECT_NEAR(worth(BestBox(map, threshold)), best, 1e-5);
  }
}

TEST(BestBoxTest, IsTheBestCellWhenNoneIsAbove) {
  const ScoreMap map = {.height = 2, .width = 2, .scores = {-3, -1, -2, -4}};
  EXPECT_EQ(BestBox(map, 0), (CellBox{1, 0, 2, 1}));
}

TEST(UpsampledTest, InterpolatesBetweenCentres) {
  const ScoreMap map = {.height = 1, .width = 2, .scores = {0, 1}};
  const ScoreMap fine = Upsampled(map, 2);
  EXPECT_EQ(fine.height, 2);
  EXPECT_THAT(fine.scores, ElementsAre(0, 0.25, 0.75, 1, 0, 0.25, 0.75, 1));
}

TEST(RefineTest, EndsWhereNoEdgeMoveHelps) {
  const ScoreMap map = RandomMap(8, 8, 7);
  const IntegralImage sums(map);
  const auto worth = [&](const CellBox& box) { return sums.Sum(box); };
  const CellBox refined = Refine({3, 3, 5, 5}, 8, 8, worth);
  EXPECT_GE(worth(refined), worth({3, 3, 5, 5}));
  for (int64_t CellBox::*edge :
       {&CellBox::left, &CellBox::top, &CellBox::right, &CellBox::bottom}) {
    for (const int64_t step : {-1, 1}) {
      CellBox moved = refined;
      moved.*edge += step;
      if (moved.left < 0 || moved.top < 0 || moved.right > 8 ||
          moved.bottom > 8 || moved.area() <= 0) {
        continue;
      }
      EXPECT_LE(worth(moved), worth(refined) + 1e-6);
    }
  }
}

TEST(SuppressTest, KeepsTheBestOfThoseThatOverlap) {
  const std::vector<Scored<TimeSpan>> spans = {
      {{0, 10}, 0.5}, {{1, 11}, 0.9}, {{20, 30}, 0.7}, {{5, 15}, 0.6}};
  // The IoU of the second with the first is 9/11, with the last 6/14.
  EXPECT_THAT(Suppress(spans, 0.5, 10), ElementsAre(1, 2, 3));
  EXPECT_THAT(Suppress(spans, 0.4, 10), ElementsAre(1, 2));
  EXPECT_THAT(Suppress(spans, 1, 2), ElementsAre(1, 2));
}

TEST(PresenceTest, IsTheLogisticFunctionOfTheFeatures) {
  const PresenceCalibration calibration = {
      .bias = -1, .peak = 4, .mean = -2, .deviation = 1};
  EXPECT_DOUBLE_EQ(calibration.Probability({.peak = 0.25}), 0.5);
  EXPECT_NEAR(
      calibration.Probability({.peak = 1, .mean = 0.5, .deviation = 0.25}),
      1 / (1 + std::exp(-2.25)), 1e-12);
  const PresenceCalibration further = {
      .bias = -1, .best = 2, .inside = -4, .pooled = 8};
  EXPECT_DOUBLE_EQ(further.Probability({.best = 0.5}), 0.5);
  EXPECT_NEAR(further.Probability({.best = 1, .inside = 0.5, .pooled = 0.25}),
              1 / (1 + std::exp(-1)), 1e-12);
}

// A grid of background cells along axis 0 with boxes of other axes in it.
class GridTest : public ::testing::Test {
 protected:
  static constexpr int64_t kSide = 12;
  static constexpr int64_t kDimension = 16;

  GridTest() : cells_(kSide * kSide * kDimension) {
    for (int64_t cell = 0; cell < kSide * kSide; ++cell) {
      cells_[cell * kDimension] = 1;
    }
  }

  void Put(const CellBox& box, int64_t axis) {
    for (int64_t row = box.top; row < box.bottom; ++row) {
      for (int64_t column = box.left; column < box.right; ++column) {
        float* cell = cells_.data() + (row * kSide + column) * kDimension;
        cell[0] = 0;
        cell[axis] = 1;
      }
    }
  }

  static std::vector<float> Axis(int64_t axis) {
    std::vector<float> query(kDimension);
    query[axis] = 1;
    return query;
  }

  RegionGrounder Grounder() const {
    return RegionGrounder({.cells = {.data = cells_.data(),
                                     .rows = kSide * kSide,
                                     .columns = kDimension},
                           .height = kSide,
                           .width = kSide});
  }

  std::vector<float> cells_;
};

TEST_F(GridTest, FindsTheThingThatThePhraseIs) {
  const CellBox first = {1, 1, 5, 6};
  const CellBox second = {7, 6, 11, 10};
  Put(first, 1);
  Put(second, 2);
  const RegionGrounder grounder = Grounder();
  for (const auto& [axis, box] : {std::pair(1, first), std::pair(2, second)}) {
    const std::vector<float> query = Axis(axis);
    const std::vector<GroundedRegion> regions =
        grounder.Ground({.embedding = query}, 3, 0.5);
    ASSERT_FALSE(regions.empty());
    EXPECT_GE(Iou(regions[0].box, ToBox(box, kSide, kSide)), 0.75);
    EXPECT_NEAR(regions[0].features.peak, 1, 1e-5);
  }
}

TEST_F(GridTest, FindsBothOfAKindAndKeepsThemApart) {
  const CellBox left = {0, 0, 4, 4};
  const CellBox right = {8, 8, 12, 12};
  Put(left, 1);
  Put(right, 1);
  const std::vector<float> query = Axis(1);
  const std::vector<GroundedRegion> regions =
      Grounder().Ground({.embedding = query}, 100, 0.3);
  ASSERT_GE(regions.size(), 2);
  EXPECT_GE(std::max(Iou(regions[0].box, ToBox(left, kSide, kSide)),
                     Iou(regions[1].box, ToBox(left, kSide, kSide))),
            0.6);
  for (size_t i = 1; i < regions.size(); ++i) {
    EXPECT_LE(regions[i].score, regions[i - 1].score);
    for (size_t j = 0; j < i; ++j) {
      EXPECT_LT(Iou(regions[i].box, regions[j].box), 0.3);
    }
  }
  EXPECT_THAT(Grounder().Ground({.embedding = query}, 1, 0.3), SizeIs(1));
}

TEST_F(GridTest, ARelationChoosesAmongEqualThings) {
  const CellBox left = {0, 4, 3, 8};
  const CellBox middle = {5, 4, 7, 8};
  const CellBox right = {9, 4, 12, 8};
  Put(left, 1);
  Put(middle, 2);
  Put(right, 1);
  const std::vector<float> kind = Axis(1);
  const std::vector<float> other = Axis(2);
  const PhraseQuery object = {.embedding = other};
  const RegionGrounder grounder = Grounder();
  const auto centre = [&](SpatialRelation relation, const PhraseQuery* to) {
    const Box box =
        grounder
            .Ground({.embedding = kind, .relation = relation, .object = to}, 1,
                    0.5)
            .front()
            .box;
    return (box.left + box.right) / 2;
  };
  EXPECT_LT(centre(SpatialRelation::kLeft, &object), 0.4);
  EXPECT_GT(centre(SpatialRelation::kRight, &object), 0.6);
  EXPECT_LT(centre(SpatialRelation::kLeft, nullptr), 0.4);
  EXPECT_GT(centre(SpatialRelation::kRight, nullptr), 0.6);
}

TEST_F(GridTest, TellsWhatPresenceIsJudgedBy) {
  const CellBox thing = {2, 3, 6, 8};
  Put(thing, 1);
  // Half of it is the thing: a cosine of the root of a half with its cells.
  std::vector<float> query = Axis(1);
  query[1] = query[2] = std::sqrt(0.5F);
  const GroundedRegion best =
      Grounder().Ground({.embedding = query}, 1, 0.5).front();
  ASSERT_GT(Iou(best.box, ToBox(thing, kSide, kSide)), 0.7);
  const auto cell = [](float share) { return std::lround(share * kSide); };
  double things = 0;
  double others = 0;
  for (int64_t y = cell(best.box.top); y < cell(best.box.bottom); ++y) {
    for (int64_t x = cell(best.box.left); x < cell(best.box.right); ++x) {
      const bool is_thing = x >= thing.left && x < thing.right &&
                            y >= thing.top && y < thing.bottom;
      (is_thing ? things : others) += 1;
    }
  }
  EXPECT_NEAR(best.features.best, std::sqrt(0.5), 1e-5);
  EXPECT_EQ(best.features.peak, best.features.best);
  EXPECT_NEAR(best.features.pooled,
              std::sqrt(0.5) * things / std::hypot(things, others), 1e-5);
  // Cells are averaged with their neighbours, some of which are outside.
  EXPECT_LT(best.features.inside, best.features.pooled);
  EXPECT_GT(best.features.inside, best.features.mean);
}

TEST_F(GridTest, ProposalsWithOtherScoresAreTakenAsTheyAre) {
  Put({0, 4, 3, 8}, 1);
  Put({8, 4, 12, 8}, 1);
  const std::vector<float> kind = Axis(1);
  const RegionGrounder grounder = Grounder();
  std::vector<GroundedRegion> proposals = grounder.Propose(kind);
  ASSERT_GE(proposals.size(), 2U);
  for (size_t raised = 0; raised < proposals.size(); ++raised) {
    std::vector<GroundedRegion> changed = proposals;
    changed[raised].score += 10;
    const std::vector<GroundedRegion> regions =
        grounder.Ground({.embedding = kind, .proposals = &changed}, 1, 0.5);
    EXPECT_EQ(Iou(regions.front().box, proposals[raised].box), 1);
  }
}

TEST(RegionGrounderTest, GivesABoxOfAnyGrid) {
  for (const auto& [height, width] :
       {std::pair(1, 1), std::pair(1, 20), std::pair(3, 2)}) {
    // All alike, and all zero.
    for (const float value : {1.0F, 0.0F}) {
      const std::vector<float> cells(height * width * 4, value);
      const std::vector<float> query = {1, 0, 0, 0};
      const RegionGrounder grounder({.cells = {.data = cells.data(),
                                               .rows = height * width,
                                               .columns = 4},
                                     .height = height,
                                     .width = width});
      const auto regions = grounder.Ground({.embedding = query}, 5, 0.5);
      ASSERT_FALSE(regions.empty());
      for (const GroundedRegion& region : regions) {
        EXPECT_TRUE(std::isfinite(region.score));
        EXPECT_GE(region.box.left, 0);
        EXPECT_LT(region.box.left, region.box.right);
        EXPECT_LE(region.box.right, 1);
        EXPECT_LT(region.box.top, region.box.bottom);
      }
    }
  }
}

}  // namespace
}  // namespace quern
