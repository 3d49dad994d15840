// The parts of temporal grounding, against values worked out by hand or by
// brute force.

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/fine/anchor_expansion.h"
#include "engine/fine/change_points.h"
#include "engine/fine/max_subarray.h"
#include "engine/fine/otsu_runs.h"
#include "engine/fine/overlap.h"
#include "engine/fine/segment_grounder.h"
#include "engine/fine/sliding_runs.h"
#include "engine/fine/span_voting.h"

namespace quern {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(PrefixSumsTest, GiveMeansAndContrast) {
  const std::vector<float> scores = {1, 2, 3, 6};
  const PrefixSums sums(scores);
  EXPECT_DOUBLE_EQ(sums.Mean({1, 3}), 2.5);
  EXPECT_DOUBLE_EQ(sums.Contrast({2, 4}), 4.5 - 1.5);
  EXPECT_DOUBLE_EQ(sums.Contrast({0, 4}), 3);
}

TEST(MaxSubarrayTest, IsTheBestOfAllRuns) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> scores(12);
    for (float& score : scores) {
      score = static_cast<float>(random() % 100) / 100;
    }
    const PrefixSums sums(scores);
    const auto worth = [&](const FrameRun& run) {
      return sums.Sum(run) - 0.6 * static_cast<double>(run.size());
    };
    double best = -1e9;
    for (int64_t begin = 0; begin < 12; ++begin) {
      for (int64_t end = begin + 1; end <= 12; ++end) {
        best = std::max(best, worth({begin, end}));
      }
    }
    EXPECT_NEAR(worth(MaxSubarray(scores, 0.6)), best, 1e-5);
  }
  EXPECT_EQ(MaxSubarray(std::vector<float>{-2, -1, -3}, 0), (FrameRun{1, 2}));
}

TEST(OtsuTest, PartsTwoHeaps) {
  EXPECT_FLOAT_EQ(
      OtsuThreshold(std::vector<float>{0.9F, 0.1F, 0.2F, 0.8F, 0.15F}), 0.2F);
  const std::vector<float> flat(4, 0.5F);
  EXPECT_FLOAT_EQ(OtsuThreshold(flat), 0.5F);
  EXPECT_THAT(RunsAbove(flat, 0.5), IsEmpty());
  EXPECT_THAT(RunsAbove(std::vector<float>{1, 1, 0, 1}, 0.5),
              ElementsAre(FrameRun{0, 2}, FrameRun{3, 4}));
}

TEST(SlidingRunsTest, CoverTheVideoInManyLengths) {
  EXPECT_THAT(SlidingRuns(1, 1), ElementsAre(FrameRun{0, 1}));
  EXPECT_THAT(SlidingRuns(4, 2), ElementsAre(FrameRun{0, 2}, FrameRun{1, 3},
                                             FrameRun{2, 4}, FrameRun{0, 4}));
  for (const FrameRun& run : SlidingRuns(301, 2)) {
    EXPECT_GE(run.begin, 0);
    EXPECT_LE(run.end, 301);
    EXPECT_LT(run.begin, run.end);
  }
}

// Frames of `columns` axes, one axis per letter.
Matrix FramesOf(const std::string& letters) {
  constexpr int64_t kAxes = 8;
  Matrix frames(static_cast<int64_t>(letters.size()), kAxes);
  for (size_t i = 0; i < letters.size(); ++i) {
    frames.row(static_cast<int64_t>(i))[letters[i] - 'a'] = 1;
  }
  return frames;
}

TEST(ChangePointsTest, AreWhereThePictureChanges) {
  EXPECT_THAT(ChangePoints(FramesOf("aaaabbbbbbcccc").view(), 2),
              ElementsAre(4, 10));
  EXPECT_THAT(ChangePoints(FramesOf("aaaa").view(), 2), IsEmpty());
  EXPECT_THAT(ChangePoints(FramesOf("a").view(), 2), IsEmpty());
  EXPECT_THAT(RunsBetween({4, 10}, 14, 2),
              ElementsAre(FrameRun{0, 4}, FrameRun{0, 10}, FrameRun{4, 10},
                          FrameRun{4, 14}, FrameRun{10, 14}));
}

TEST(ExpandAnchorTest, GrowsOverWhatLooksAlike) {
  const std::vector<float> similarity = {0.1F,  0.2F, 0.9F, 1,
                                         0.95F, 0.3F, 0.9F};
  EXPECT_EQ(ExpandAnchor(similarity, 3), (FrameRun{2, 5}));
  EXPECT_EQ(ExpandAnchor(std::vector<float>{1}, 0), (FrameRun{0, 1}));
}

TEST(VotesTest, AreWeighedByOverlap) {
  const std::vector<WeightedRun> runs = {
      {{0, 4}, 1}, {{2, 6}, 2}, {{10, 12}, 5}};
  const double overlap = std::pow(2.0 / 6, 0.6);
  EXPECT_THAT(Votes(runs),
              ElementsAre(DoubleNear(1 + 2 * overlap, 1e-9),
                          DoubleNear(2 + overlap, 1e-9), DoubleNear(5, 1e-9)));
}

class SegmentGrounderTest : public ::testing::Test {
 protected:
  GroundedMoments Ground(const std::string& letters, char wanted,
                         const SegmentOptions& options = {}) {
    const Matrix frames = FramesOf(letters);
    std::vector<double> times;
    for (size_t i = 0; i < letters.size(); ++i) {
      times.push_back(0.5 * static_cast<double>(i));
    }
    const Matrix sentence = FramesOf(std::string(1, wanted));
    const SegmentGrounder grounder(
        {.frames = frames.view(),
         .times = times,
         .duration = 0.5 * static_cast<double>(letters.size())});
    return grounder.Ground(sentence.row(0), options);
  }
};

TEST_F(SegmentGrounderTest, FindsTheStretch) {
  const GroundedMoments moments = Ground("aaaabbbbbbccccdd", 'b');
  EXPECT_THAT(moments.saliency, SizeIs(16));
  EXPECT_FLOAT_EQ(moments.saliency[5], 1);
  ASSERT_FALSE(moments.segments.empty());
  // Between the frames of two letters.
  EXPECT_DOUBLE_EQ(moments.segments[0].span.start, 1.75);
  EXPECT_DOUBLE_EQ(moments.segments[0].span.end, 4.75);
  EXPECT_FLOAT_EQ(static_cast<float>(moments.segments[0].features.peak), 1);
}

TEST_F(SegmentGrounderTest, FindsBothStretchesAndTheLastOneToTheEnd) {
  const GroundedMoments moments = Ground("bbbbaaaaaabbbb", 'b');
  ASSERT_GE(moments.segments.size(), 2);
  std::vector<double> starts = {moments.segments[0].span.start,
                                moments.segments[1].span.start};
  std::sort(starts.begin(), starts.end());
  EXPECT_THAT(starts, ElementsAre(0, 4.75));
  EXPECT_DOUBLE_EQ(
      std::max(moments.segments[0].span.end, moments.segments[1].span.end), 7);
}

TEST_F(SegmentGrounderTest, GrowsWhatIsShorterThanAsked) {
  const GroundedMoments moments =
      Ground("aaaaaabaaaaaa", 'b', {.min_duration = 3});
  const TimeSpan span = moments.segments[0].span;
  EXPECT_DOUBLE_EQ(Length(span), 3);
  EXPECT_LE(span.start, 3);
  EXPECT_GE(span.end, 3.5);
  // No longer than the video.
  EXPECT_DOUBLE_EQ(
      Length(Ground("ab", 'b', {.min_duration = 60}).segments[0].span), 1);
}

TEST_F(SegmentGrounderTest, OneFrameIsTheWholeVideo) {
  const GroundedMoments moments = Ground("a", 'a');
  ASSERT_THAT(moments.segments, SizeIs(1));
  EXPECT_DOUBLE_EQ(moments.segments[0].span.start, 0);
  EXPECT_DOUBLE_EQ(moments.segments[0].span.end, 0.5);
}

TEST_F(SegmentGrounderTest, StaysWithinTheVideoWhoseEndIsUnknown) {
  const Matrix frames = FramesOf("ab");
  const std::vector<double> times = {0, 7};
  const Matrix sentence = FramesOf("b");
  // The header says less than the frames do.
  const SegmentGrounder grounder(
      {.frames = frames.view(), .times = times, .duration = 2});
  for (const GroundedSegment& segment :
       grounder.Ground(sentence.row(0), {}).segments) {
    EXPECT_GE(segment.span.start, 0);
    EXPECT_LE(segment.span.start, segment.span.end);
    EXPECT_LE(segment.span.end, 7);
  }
}

}  // namespace
}  // namespace quern
