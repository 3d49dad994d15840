#include "client/cli/moment_metrics.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::cli {
namespace {

using testing::DoubleEq;
using testing::Each;
using testing::ElementsAre;
using testing::Optional;

// Every expected value is worked out by hand from the definitions.

TEST(MomentIouTest, UnionAndHullAgreeOnOverlaps) {
  EXPECT_EQ(UnionIou({0, 10}, {0, 10}), 1);
  EXPECT_EQ(UnionIou({0, 10}, {0, 20}), 0.5);
  EXPECT_EQ(HullIou({0, 10}, {0, 20}), 0.5);
  EXPECT_EQ(UnionIou({0, 10}, {5, 15}), 5.0 / 15);
  EXPECT_EQ(HullIou({0, 10}, {5, 15}), 5.0 / 15);
}

TEST(MomentIouTest, ApartOrTouchingIsZero) {
  EXPECT_EQ(UnionIou({0, 10}, {10, 20}), 0);
  EXPECT_EQ(HullIou({0, 10}, {30, 40}), 0);
}

TEST(MomentIouTest, NoLengthIsNotANumberByUnionAndZeroByHull) {
  EXPECT_TRUE(std::isnan(UnionIou({5, 5}, {5, 5})));
  EXPECT_EQ(HullIou({5, 5}, {5, 5}), 0);
  EXPECT_EQ(UnionIou({5, 5}, {0, 10}), 0);
}

TEST(MomentApTest, AnExactWindowIsPerfect) {
  EXPECT_THAT(MomentAp({{0, 10}}, {{{0, 10}, 0.5}}), Each(1));
}

TEST(MomentApTest, NothingPredictedIsZero) {
  EXPECT_THAT(MomentAp({{0, 10}}, {}), Each(0));
}

TEST(MomentApTest, TheThresholdItselfCounts) {
  EXPECT_THAT(MomentAp({{0, 20}}, {{{0, 10}, 1}}),  // IoU 0.5
              ElementsAre(1, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(MomentAp({{0, 20}}, {{{0, 15}, 1}}),  // IoU 0.75
              ElementsAre(1, 1, 1, 1, 1, 1, 0, 0, 0, 0));
}

TEST(MomentApTest, ATrueMomentIsFoundOnce) {
  // Right, a double of it, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
  const std::vector<ScoredMoment> predicted = {
      {{0, 10}, 0.9}, {{0, 10}, 0.8}, {{20, 30}, 0.7}};
  EXPECT_THAT(MomentAp({{0, 10}, {20, 30}}, predicted),
              Each(DoubleEq(0.5 + 0.5 * 2 / 3)));
}

TEST(MomentApTest, WhatIsNotFoundLosesItsRecall) {
  EXPECT_THAT(MomentAp({{0, 10}, {20, 30}}, {{{0, 10}, 0.9}}), Each(0.5));
}

TEST(MomentApTest, PrecisionIsInterpolated) {
  // Wrong, right, right: precision 0, 1/2, 2/3; the last holds for all recalls.
  const std::vector<ScoredMoment> predicted = {
      {{50, 60}, 0.9}, {{0, 10}, 0.8}, {{20, 30}, 0.7}};
  EXPECT_THAT(MomentAp({{0, 10}, {20, 30}}, predicted),
              Each(DoubleEq(2.0 / 3)));
}

TEST(MomentApTest, ScoresDecideTheOrderAndTiesKeepTheLists) {
  const std::vector<Moment> truth = {{0, 10}};
  EXPECT_THAT(MomentAp(truth, {{{50, 60}, 0.1}, {{0, 10}, 0.2}}), Each(1));
  EXPECT_THAT(MomentAp(truth, {{{50, 60}, 0.2}, {{0, 10}, 0.2}}), Each(0.5));
  EXPECT_THAT(MomentAp(truth, {{{0, 10}, 0.2}, {{50, 60}, 0.2}}), Each(1));
}

TEST(MomentApTest, TheListIsCutToTenBeforeItIsSorted) {
  std::vector<ScoredMoment> predicted(9, {{50, 60}, 0.1});
  predicted.push_back({{0, 10}, 0.2});
  EXPECT_THAT(MomentAp({{0, 10}}, predicted), Each(1));
  predicted.insert(predicted.begin(), {{50, 60}, 0.1});
  EXPECT_THAT(MomentAp({{0, 10}}, predicted), Each(0));
}

TEST(MomentApTest, ATakenMomentLeavesTheNextBest) {
  // The second prediction fits the second moment with IoU 10/11.
  const auto ap = MomentAp({{0, 10}, {0, 11}}, {{{0, 10}, 2}, {{0, 10}, 1}});
  EXPECT_THAT(ap, ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5));
}

TEST(MomentApTest, OfEqualOverlapsTheLaterMomentIsTaken) {
  // [0, 20] takes [10, 20], which leaves [0, 10] to the second.
  const auto ap = MomentAp({{0, 10}, {10, 20}}, {{{0, 20}, 2}, {{0, 10}, 1}});
  EXPECT_EQ(ap[0], 1);
  // From IoU 0.55 on the first is wrong: precision 1/2 at recall 1/2.
  EXPECT_EQ(ap[1], 0.25);
}

TEST(MomentApTest, EqualMomentsOfNoLengthMatch) {
  EXPECT_THAT(MomentAp({{5, 5}}, {{{5, 5}, 1}}), Each(1));
}

TEST(MeasureMomentsTest, RecallTakesTheFirstOfTheListWhateverItsScore) {
  const MomentFigures figures =
      MeasureMoments({{{{0, 10}}, {{{50, 60}, 0.1}, {{0, 10}, 0.9}}}});
  EXPECT_EQ(figures.recall_at_50, 0);
  EXPECT_EQ(figures.map, 100);
}

TEST(MeasureMomentsTest,
     RecallComparesWithTheClosestMomentAndTheThresholdHits) {
  const std::vector<MomentCase> cases = {
      {{{0, 4}, {0, 10}, {40, 60}}, {{{0, 20}, 1}}},  // 0.5 with the second
      {{{0, 10}}, {{{0, 7}, 1}}},                     // 0.7
      {{{0, 10}}, {{{20, 30}, 1}}}};
  const MomentFigures figures = MeasureMoments(cases);
  EXPECT_EQ(figures.recall_at_50, 66.67);
  EXPECT_EQ(figures.recall_at_70, 33.33);
}

TEST(MeasureMomentsTest, EqualMomentsOfNoLengthDoNotCountForRecall) {
  const MomentFigures figures = MeasureMoments({{{{5, 5}}, {{{5, 5}, 1}}}});
  EXPECT_EQ(figures.recall_at_50, 0);
  EXPECT_EQ(figures.map, 100);
}

TEST(MeasureMomentsTest, AnEmptyAnswerIsMissed) {
  const MomentFigures figures =
      MeasureMoments({{{{0, 10}}, {}}, {{{0, 10}}, {{{0, 10}, 1}}}});
  EXPECT_EQ(figures.recall_at_50, 50);
  EXPECT_EQ(figures.map, 50);
}

TEST(MeasureMomentsTest, MapIsTheMeanOverQueriesAndThresholds) {
  // IoU 1 and 0.75: AP 1 everywhere, and at six of ten thresholds.
  const MomentFigures figures = MeasureMoments(
      {{{{0, 20}}, {{{0, 20}, 1}}}, {{{0, 20}}, {{{0, 15}, 1}}}});
  EXPECT_EQ(figures.map, 80);
  EXPECT_EQ(figures.map_at_50, 100);
  EXPECT_EQ(figures.map_at_75, 100);
}

TEST(MeasureMomentsTest, BinsTakeTheirUpperBorder) {
  const auto perfect = [](double length) {
    return MomentCase{{{0, length}}, {{{0, length}, 1}}};
  };
  const MomentCase missed10 = {{{0, 10}}, {{{90, 99}, 1}}};
  const MomentFigures figures =
      MeasureMoments({perfect(10), missed10, perfect(30), perfect(150)});
  EXPECT_THAT(figures.map_short, Optional(50.0));
  EXPECT_THAT(figures.map_middle, Optional(100.0));
  EXPECT_THAT(figures.map_long, Optional(100.0));
}

TEST(MeasureMomentsTest, LengthsOutsideEveryBinCountInFullOnly) {
  const MomentFigures figures =
      MeasureMoments({{{{0, 150.5}, {7, 7}}, {{{0, 150.5}, 2}, {{7, 7}, 1}}}});
  EXPECT_EQ(figures.map, 100);
  EXPECT_EQ(figures.map_short, std::nullopt);
  EXPECT_EQ(figures.map_middle, std::nullopt);
  EXPECT_EQ(figures.map_long, std::nullopt);
}

TEST(MeasureMomentsTest, ABinKeepsItsMomentsAndAllPredictions) {
  // One moment in each of two bins. In each, one prediction is wrong: it comes
  // second for the short one, first for the long one.
  const MomentFigures figures =
      MeasureMoments({{{{0, 10}, {50, 100}}, {{{0, 10}, 2}, {{50, 100}, 1}}}});
  EXPECT_EQ(figures.map, 100);
  EXPECT_THAT(figures.map_short, Optional(100.0));
  EXPECT_EQ(figures.map_middle, std::nullopt);
  EXPECT_THAT(figures.map_long, Optional(50.0));
}

TEST(HighlightApTest, IsTheMeanPrecisionOfTheRelevantClips) {
  EXPECT_DOUBLE_EQ(HighlightAp({true, false, true, false}, {.9, .8, .7, .6}),
                   (1 + 2.0 / 3) / 2);
}

TEST(HighlightApTest, PrecisionIsInterpolated) {
  // 1/2 at the second, 2/3 at the third.
  EXPECT_DOUBLE_EQ(HighlightAp({false, true, true, false}, {.9, .8, .7, .6}),
                   2.0 / 3);
}

TEST(HighlightApTest, EqualScoresAreOneStepHoweverManyAreRelevant) {
  // One at the top, then two of six: (1 + 3/7) / 2, not weighted by recall.
  EXPECT_DOUBLE_EQ(HighlightAp({true, true, true, false, false, false, false},
                               {.9, .5, .5, .5, .5, .5, .5}),
                   (1 + 3.0 / 7) / 2);
  EXPECT_DOUBLE_EQ(HighlightAp({true, false, false, false}, {0, 0, 0, 0}),
                   0.25);
}

TEST(HighlightApTest, NoneIsZeroAllIsOne) {
  EXPECT_EQ(HighlightAp({false, false}, {1, 2}), 0);
  EXPECT_EQ(HighlightAp({true, true}, {1, 2}), 1);
}

TEST(HighlightApTest, MissingScoresAreZeroAndFurtherOnesDoNotCount) {
  EXPECT_EQ(HighlightAp({false, false, true}, {-1, -2}), 1);
  EXPECT_EQ(HighlightAp({false, false, true}, {1, 2}), 1.0 / 3);
  EXPECT_EQ(HighlightAp({true, false}, {.1, .05, .9}), 1);
}

TEST(MeasureHighlightsTest, AHitNeedsOneAnnotatorAndMapIsTheirMean) {
  const std::vector<HighlightCase> cases = {
      {{{2, 3, 4}, {0, 0, 0}}, {.9, .1}},   // The best clip is good to two.
      {{{4, 4, 4}, {3, 2, 2}}, {.1, .9}}};  // Best clip: good to one.
  // Fair: all hits; AP 1, 1, 1 and 1, 1, 1 (all relevant).
  EXPECT_EQ(MeasureHighlights(cases, 2).hit_at_1, 100);
  EXPECT_EQ(MeasureHighlights(cases, 2).map, 100);
  // Good: AP 0, 1, 1 and 1, 1/2, 1/2.
  EXPECT_EQ(MeasureHighlights(cases, 3).hit_at_1, 100);
  EXPECT_EQ(MeasureHighlights(cases, 3).map, 66.67);
  // Very good: AP 0, 0, 1 and 1/2 each.
  EXPECT_EQ(MeasureHighlights(cases, 4).hit_at_1, 50);
  EXPECT_EQ(MeasureHighlights(cases, 4).map, 41.67);
}

TEST(MeasureHighlightsTest, OfEqualBestClipsTheFirstIsAsked) {
  EXPECT_EQ(MeasureHighlights({{{{4, 4, 4}, {0, 0, 0}}, {1, 1}}}, 4).hit_at_1,
            100);
  EXPECT_EQ(MeasureHighlights({{{{0, 0, 0}, {4, 4, 4}}, {1, 1}}}, 4).hit_at_1,
            0);
}

TEST(MeasureHighlightsTest, ABestClipPastTheEndMisses) {
  const HighlightCase query = {{{4, 4, 4}, {0, 0, 0}}, {1, 0, 2}};
  EXPECT_EQ(MeasureHighlights({query}, 2).hit_at_1, 0);
  EXPECT_EQ(MeasureHighlights({query}, 2).map, 100);
}

TEST(MeasureSingleMomentsTest, CountsFromTheThresholdOn) {
  const SingleMomentFigures figures =
      MeasureSingleMoments({{{0, 10}, Moment{0, 3}},
                            {{0, 10}, Moment{0, 5}},
                            {{0, 10}, Moment{3, 10}},
                            {{0, 10}, std::nullopt}});
  EXPECT_EQ(figures.recall_at_30, 75);
  EXPECT_EQ(figures.recall_at_50, 50);
  EXPECT_EQ(figures.recall_at_70, 25);
  EXPECT_EQ(figures.mean_iou, 37.5);  // (0.3 + 0.5 + 0.7) / 4
}

}  // namespace
}  // namespace quern::cli
