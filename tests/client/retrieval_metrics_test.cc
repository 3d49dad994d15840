#include "client/cli/retrieval_metrics.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::cli {
namespace {

using testing::ElementsAre;

// Three pictures along the axes. With one-hot pictures a caption's vector is
// its row of scores, so ranks can be read off.
const std::vector<float> kAxes = {1, 0, 0,  //
                                  0, 1, 0,  //
                                  0, 0, 1};

TEST(RetrievalMetricsTest, RanksByHand) {
  // Captions 0 and 1 are picture 0's, 2 is picture 1's, 3 is picture 2's.
  const std::vector<float> captions = {.9F, .5F, .1F,   // right: rank 1
                                       .2F, .3F, .4F,   // two above: rank 3
                                       .7F, .6F, .0F,   // one above: rank 2
                                       .0F, .1F, .8F};  // rank 1
  const auto ranks = RankAll(kAxes, captions, 3, {0, 0, 1, 2});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_THAT(ranks->text_to_image, ElementsAre(1, 3, 2, 1));
  // Picture 0's column: its best caption scores .9, above .7 and .0.
  // Picture 1's column: own .6, others .5 .3 .1. Picture 2: own .8.
  EXPECT_THAT(ranks->image_to_text, ElementsAre(1, 1, 1));
}

TEST(RetrievalMetricsTest, AnImageRanksByItsBestCaption) {
  // Picture 0's captions score .1 and .6; picture 1's scores .5 on picture 0.
  const std::vector<float> images = {1, 0, 0, 1};
  const std::vector<float> captions = {.1F, 0, .6F, 0, .5F, .9F};
  const auto ranks = RankAll(images, captions, 2, {0, 0, 1});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_THAT(ranks->image_to_text, ElementsAre(1, 1));
}

TEST(RetrievalMetricsTest, TiesCountAgainstTheQuery) {
  const std::vector<float> same(3 * 2, .5F);
  const auto ranks = RankAll(same, same, 2, {0, 1, 2});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_THAT(ranks->text_to_image, ElementsAre(3, 3, 3));
  EXPECT_THAT(ranks->image_to_text, ElementsAre(3, 3, 3));
}

TEST(RetrievalMetricsTest, TiesAmongAnImagesOwnCaptionsDoNotMatter) {
  const std::vector<float> images = {1, 0, 0, 1};
  const std::vector<float> captions = {1, 0, 1, 0, 0, 1};
  const auto ranks = RankAll(images, captions, 2, {0, 0, 1});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_THAT(ranks->image_to_text, ElementsAre(1, 1));
}

TEST(RetrievalMetricsTest, WhatIsNotANumberNeverWins) {
  const std::vector<float> images = {1, 0, 0, 1};
  const std::vector<float> captions = {std::nanf(""), 0, 0, 1};
  const auto ranks = RankAll(images, captions, 2, {0, 1});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_EQ(ranks->text_to_image[0], 2);
}

TEST(RetrievalMetricsTest, WideVectorsAreSummedWhole) {
  // 37 is no multiple of any vector width; the last number decides.
  std::vector<float> images(2 * 37, .01F);
  images[36] = 1;
  std::vector<float> captions(2 * 37, .01F);
  captions[36] = 1;
  captions[37] = 1;
  images[37] = 1;
  const auto ranks = RankAll(images, captions, 37, {0, 1});
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_THAT(ranks->text_to_image, ElementsAre(1, 1));
}

TEST(RetrievalMetricsTest, SummaryByHand) {
  const DirectionMetrics metrics = Summarize({1, 3, 7, 20, 1, 11, 5, 10});
  EXPECT_DOUBLE_EQ(metrics.recall_at_1, 25);
  EXPECT_DOUBLE_EQ(metrics.recall_at_5, 50);
  EXPECT_DOUBLE_EQ(metrics.recall_at_10, 75);
  EXPECT_DOUBLE_EQ(metrics.median_rank, 6);  // Between 5 and 7.
  EXPECT_DOUBLE_EQ(Summarize({9, 1, 4}).median_rank, 4);
}

TEST(RetrievalMetricsTest, RecallSumAddsBothDirections) {
  const RetrievalMetrics metrics = Summarize(RetrievalRanks{{1, 6}, {2}});
  EXPECT_DOUBLE_EQ(metrics.recall_sum, 50 + 50 + 100 + 0 + 100 + 100);
}

TEST(RetrievalMetricsTest, RejectsShapesThatDoNotFit) {
  const std::vector<float> two = {1, 0, 0, 1};
  EXPECT_FALSE(RankAll({}, two, 2, {0, 1}).ok());
  EXPECT_FALSE(RankAll(two, two, 3, {0, 1}).ok());
  EXPECT_FALSE(RankAll(two, two, 2, {0}).ok());
  EXPECT_FALSE(RankAll(two, two, 2, {0, 2}).ok());
  EXPECT_FALSE(RankAll(two, two, 2, {0, 0}).ok());  // Image 1 has no caption.
}

}  // namespace
}  // namespace quern::cli
