// The scorers of this process behind the seam: the contract, and what is the
// built-in one's and the match head's own.

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/fine/region_grounder.h"
#include "engine/query/feature_scorer.h"
#include "engine/query/match_scorer.h"
#include "engine/query/rerank.h"
#include "tests/contract/scorer_contract.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_scorer.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr float kTolerance = 0.01F;  // Of what is kept in a byte a number.

INSTANTIATE_TEST_SUITE_P(
    Backends, ScorerContract,
    testing::Values(ScorerBackend{"Feature",
                                  [] {
                                    return std::make_unique<FeatureScorer>(
                                        "1", nullptr);
                                  }},
                    ScorerBackend{
                        "Fake", [] { return std::make_unique<FakeScorer>(); }}),
    [](const auto& info) { return info.param.name; });

PartFeatures Grid(int64_t height, int64_t width, std::vector<float> cells) {
  const auto columns = static_cast<int64_t>(cells.size()) / (height * width);
  PartFeatures parts;
  parts.shape = {.grid_height = height, .grid_width = width};
  parts.features = QuantizeUnitRows(
      {.data = cells.data(), .rows = height * width, .columns = columns});
  return parts;
}

// A frame a second.
PartFeatures Video(std::vector<float> frames) {
  PartFeatures parts = Grid(1, static_cast<int64_t>(frames.size()) / 2, frames);
  const int64_t rows = parts.features.rows;
  parts.shape = {.frames = rows, .duration = absl::Seconds(rows)};
  for (int64_t i = 0; i < rows; ++i) {
    parts.times.push_back(absl::Seconds(i));
    parts.samples.push_back(1);
  }
  return parts;
}

class FeatureScorerTest : public testing::Test {
 protected:
  std::vector<CandidateScore> Score(const ScoreRequest& request) const {
    const RequestContext context(&clock_, "test");
    return ValueOrDie(FeatureScorer("1", nullptr).Score(context, request));
  }

  FakeClock clock_{absl::FromUnixSeconds(1000)};
};

TEST_F(FeatureScorerTest, WithoutPartsScoresByTheCosine) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ScoreRequest request;
  request.query.embedding = {3, 4};
  for (const std::vector<float>& embedding : std::vector<std::vector<float>>{
           {30, 40}, {-3, -4}, {3e38F, 3e38F}, {1}, {0, 0}, {1, nan}}) {
    request.candidates.push_back({.id = "x", .embedding = embedding});
  }
  const auto scores = Score(request);
  EXPECT_EQ(scores[0].score, 1);
  EXPECT_EQ(scores[1].score, -1);
  EXPECT_GT(scores[2].score, 0.9F);
  for (size_t i = 3; i < scores.size(); ++i) {
    EXPECT_THAT(scores[i].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("embedding")));
  }
}

TEST_F(FeatureScorerTest, WithPartsScoresAllByTheirParts) {
  ScoreRequest request;
  request.query.embedding = {0, 5};
  request.candidates = {
      {.id = "grid", .embedding = {1, 0}, .parts = Grid(2, 1, {3, 4, 3, 4})},
      {.id = "video", .embedding = {1, 0}, .parts = Video({0, 1, 0, 1})},
      {.id = "bare", .embedding = {0, 1}},
      {.id = "alien", .embedding = {}, .parts = Grid(1, 1, {1, 0, 0})}};
  const auto scores = Score(request);
  EXPECT_NEAR(scores[0].score, 0.8F, kTolerance);
  EXPECT_TRUE(scores[0].evidence[0].box.has_value());
  EXPECT_NEAR(scores[1].score, 1, kTolerance);
  EXPECT_TRUE(scores[1].evidence[0].span.has_value());
  EXPECT_THAT(scores[2].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("grid or frames")));
  EXPECT_THAT(scores[3].status, StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(FeatureScorerTest, WithTokensEveryTokenTakesItsBestCell) {
  const Matrix tokens(2, 2, {1, 0, 0, 2});
  ScoreRequest request;
  request.query.embedding = {1, 1};
  request.query.tokens = QuantizeUnitRows(tokens.view());
  request.candidates = {{.id = "a", .parts = Grid(1, 2, {1, 0, 0.6F, 0.8F})}};
  EXPECT_NEAR(Score(request)[0].score, 0.9F, kTolerance);  // (1 + 0.8) / 2.
}

TEST_F(FeatureScorerTest, FindsRegions) {
  // One cell of nine is what is looked for.
  std::vector<float> cells;
  for (int i = 0; i < 9; ++i) {
    cells.insert(cells.end(), {i == 5 ? 0.0F : 1.0F, i == 5 ? 1.0F : 0.1F});
  }
  ScoreRequest request;
  request.task = ScoreTask::kRegions;
  request.query.embedding = {0, 2};
  request.max_evidence = 3;
  request.candidates = {{.id = "a", .parts = Grid(3, 3, cells)},
                        {.id = "b", .parts = Video({1, 0})},
                        {.id = "c", .embedding = {1, 0}}};
  const auto scores = Score(request);
  ASSERT_THAT(scores[0].status, IsOk());
  ASSERT_GE(scores[0].evidence.size(), 1u);
  EXPECT_LE(scores[0].evidence.size(), 3u);
  EXPECT_EQ(scores[0].score, scores[0].evidence[0].score);
  const Box& best = *scores[0].evidence[0].box;
  EXPECT_GT((best.left + best.right) / 2, 2 / 3.0F);
  // What the grounder, which has tests of its own, finds in that grid.
  const Matrix grid = Dequantize(request.candidates[0].parts->features);
  const std::vector<float> phrase = {0, 1};
  const GroundedRegion direct =
      RegionGrounder({.cells = grid.view(), .height = 3, .width = 3})
          .Ground({.embedding = phrase}, 3, request.nms_iou)
          .front();
  EXPECT_EQ(best.top, direct.box.top);
  EXPECT_EQ(best.bottom, direct.box.bottom);
  EXPECT_EQ(scores[0].score, static_cast<float>(direct.score));
  for (size_t i : {1, 2}) {
    EXPECT_THAT(scores[i].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("grid")));
  }
}

TEST_F(FeatureScorerTest, FindsSegments) {
  std::vector<float> frames;
  for (int i = 0; i < 20; ++i) {
    const bool is_there = i >= 5 && i < 10;
    frames.insert(frames.end(),
                  {is_there ? 0.0F : 1.0F, is_there ? 1.0F : 0.0F});
  }
  ScoreRequest request;
  request.task = ScoreTask::kSegments;
  request.query.embedding = {0, 1};
  request.candidates = {{.id = "a", .parts = Video(frames)},
                        {.id = "b", .parts = Grid(1, 1, {1, 0})}};
  const auto scores = Score(request);
  ASSERT_THAT(scores[0].evidence, SizeIs(1));
  EXPECT_NEAR(scores[0].evidence[0].span->start, 5, 0.51);
  EXPECT_NEAR(scores[0].evidence[0].span->end, 10, 0.51);
  EXPECT_THAT(scores[1].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("frames")));
}

// "red" and "blue" are pictures of their colour.
class ColourDecoder final : public ImageDecoder {
 public:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t /*width*/,
                                 int64_t /*height*/) const override {
    if (encoded != "red" && encoded != "blue") {
      return absl::InvalidArgumentError("not a picture");
    }
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      const bool is_red = encoded == "red";
      image.rgb.insert(image.rgb.end(),
                       {static_cast<uint8_t>(is_red ? 255 : 0), 0,
                        static_cast<uint8_t>(is_red ? 0 : 255)});
    }
    return image;
  }
};

TEST(MatchScorerTest, ScoresPicturesByTheHead) {
  const FakeClock clock(absl::FromUnixSeconds(1000));
  const ColourDecoder decoder;
  const std::shared_ptr<const Model> model = MakeFakeModel("fake", 32);
  const MatchScorer scorer(model, &decoder);
  const RequestContext context(&clock, "test");
  EXPECT_TRUE(ValueOrDie(scorer.Describe(context)).needs.media);
  ScoreRequest request;
  request.query.text = "red";
  // More than one pass takes.
  for (int i = 0; i < 20; ++i) {
    request.candidates.push_back(
        {.id = "x", .media = i % 2 == 0 ? "red" : "blue"});
  }
  request.candidates.push_back({.id = "none"});
  request.candidates.push_back({.id = "text", .media = "no picture"});
  const auto scores = ValueOrDie(scorer.Score(context, request));
  ASSERT_EQ(scores.size(), 22u);
  for (int i = 0; i < 20; i += 2) {
    EXPECT_GT(scores[i].score, scores[i + 1].score + 1);
    EXPECT_EQ(scores[i].score, scores[0].score);
  }
  EXPECT_THAT(scores[20].status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("media")));
  EXPECT_THAT(scores[21].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr("not a picture")));
  request.query.text.clear();
  EXPECT_THAT(scorer.Score(context, request),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quern
