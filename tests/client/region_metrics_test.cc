#include "client/cli/region_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::cli {
namespace {

using testing::Optional;

TEST(RegionMetricsTest, IouOfBoxes) {
  EXPECT_EQ(BoxIou({0, 0, 10, 10}, {0, 0, 10, 10}), 1);
  EXPECT_EQ(BoxIou({0, 0, 10, 10}, {5, 5, 10, 10}), 25.0 / 175);
  EXPECT_EQ(BoxIou({0, 0, 10, 10}, {10, 0, 10, 10}), 0);
  EXPECT_EQ(BoxIou({0, 0, 10, 10}, {20, 20, 5, 5}), 0);
  EXPECT_EQ(BoxIou({3, 3, 0, 0}, {3, 3, 0, 0}), 0);
}

TEST(RegionMetricsTest, CountsFromTheThresholdOnAndEdgesAsInside) {
  const std::vector<RegionCase> cases = {
      {{0, 0, 10, 20}, RegionBox{0, 0, 10, 10}, ImagePoint{10, 20}},
      {{0, 0, 10, 20}, RegionBox{0, 0, 10, 9}, ImagePoint{10.5, 4}},
      {{0, 0, 10, 20}, std::nullopt, std::nullopt}};
  EXPECT_EQ(MeasureRegions(cases).accuracy_at_50, 33.33);
  EXPECT_EQ(MeasureRegions(cases).pointing, 33.33);
}

TEST(PresenceApTest, IsPrecisionTimesTheRecallGained) {
  // Precision 1, 2/3 where the two are found.
  EXPECT_THAT(
      PresenceAp({{0.1, false}, {0.9, true}, {0.5, true}, {0.7, false}}),
      Optional(83.33));
}

TEST(PresenceApTest, EqualScoresAreOneStep) {
  EXPECT_THAT(PresenceAp({{0, true}, {0, false}, {0, false}, {0, false}}),
              Optional(25.0));
}

TEST(PresenceApTest, NothingPresentHasNone) {
  EXPECT_EQ(PresenceAp({{0.5, false}}), std::nullopt);
}

}  // namespace
}  // namespace quern::cli
