#include "engine/embed/frame_pooling.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::ElementsAre;
using testing::FloatNear;

constexpr float kTolerance = 1e-6F;

MatrixView ViewOf(const std::vector<float>& rows) {
  return {.data = rows.data(),
          .rows = static_cast<int64_t>(rows.size() / 2),
          .columns = 2};
}

TEST(FramePoolingTest, TheMeanCountsEachFrameAsOftenAsItIsShown) {
  // 3 x (1, 0) + 1 x (0, 1), of length sqrt(10).
  const std::vector<float> frames = {1, 0, 0, 1};
  EXPECT_THAT(ValueOrDie(PoolFrames(ViewOf(frames), {3, 1})),
              ElementsAre(FloatNear(3 / std::sqrt(10.0F), kTolerance),
                          FloatNear(1 / std::sqrt(10.0F), kTolerance)));
}

TEST(FramePoolingTest, AQueryWeighsTheFramesThatFitIt) {
  const std::vector<float> frames = {1, 0, 0, 1};
  // Cosines 1 and 0, temperature 1 / ln 2: weights 2 to 1.
  const std::vector<float> query = {1, 0};
  EXPECT_THAT(ValueOrDie(PoolFramesForQuery(ViewOf(frames), {1, 1}, query,
                                            1 / std::log(2.0))),
              ElementsAre(FloatNear(2 / std::sqrt(5.0F), kTolerance),
                          FloatNear(1 / std::sqrt(5.0F), kTolerance)));
  // A cold one takes the best frame, a hot one the mean.
  EXPECT_THAT(
      ValueOrDie(PoolFramesForQuery(ViewOf(frames), {1, 1}, query, 1e-3)),
      ElementsAre(FloatNear(1, kTolerance), FloatNear(0, kTolerance)));
  const auto mean =
      ValueOrDie(PoolFramesForQuery(ViewOf(frames), {1, 1}, query, 1e9));
  EXPECT_NEAR(mean[0], mean[1], 1e-6);
}

TEST(FramePoolingTest, FramesThatCancelOutHaveNoDirection) {
  const std::vector<float> frames = {1, 0, -1, 0};
  EXPECT_THAT(PoolFrames(ViewOf(frames), {1, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(PoolFrames(ViewOf({}), {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quern
