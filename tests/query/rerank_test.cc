#include "engine/query/rerank.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/embed/frame_pooling.h"
#include "tests/support/fake_item_store.h"
#include "tests/support/random_rows.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr float kTolerance = 0.01F;  // Of what is kept in a byte a number.

PartFeatures Grid(int64_t height, int64_t width, std::vector<float> cells) {
  const int64_t rows = height * width;
  const auto columns = static_cast<int64_t>(cells.size()) / rows;
  return {.shape = {.grid_height = height, .grid_width = width},
          .features = QuantizeUnitRows(
              {.data = cells.data(), .rows = rows, .columns = columns})};
}

PartFeatures Video(std::vector<int64_t> samples, std::vector<float> frames) {
  const auto rows = static_cast<int64_t>(samples.size());
  PartFeatures video = Grid(1, rows, std::move(frames));
  video.shape = {.frames = rows, .duration = absl::Seconds(rows)};
  for (int64_t i = 0; i < rows; ++i) video.times.push_back(absl::Seconds(i));
  video.samples = std::move(samples);
  return video;
}

std::string Parts(std::vector<float> cells) {
  return EncodeParts(Grid(1, static_cast<int64_t>(cells.size()) / 2, cells));
}

// Time passes with every look at it.
class TickingClock final : public Clock {
 public:
  absl::Time Now() const override {
    now_ += absl::Seconds(1);
    return now_;
  }

 private:
  mutable absl::Time now_ = absl::UnixEpoch();
};

class RerankTest : public testing::Test {
 protected:
  // An item of the store, and of the coarse search's list.
  void Add(const std::string& id, float coarse, std::string parts) {
    ASSERT_THAT(
        store_.Put({Item{.id = id, .embedding = {1, 0}, .parts = parts}}),
        IsOk());
    found_.push_back({id, coarse});
  }

  Reranked Run(const RerankOptions& options) {
    const RequestContext context(&clock_, "test");
    const PartScorer scorer = ValueOrDie(PartScorer::BestPart({1, 0}));
    return ValueOrDie(Rerank(context, options, scorer, store_, found_));
  }

  static std::vector<std::string> Ids(const Reranked& reranked) {
    std::vector<std::string> ids;
    for (const Candidate& candidate : reranked.candidates) {
      ids.push_back(candidate.id);
    }
    return ids;
  }

  RealClock clock_;
  FakeItemStore store_{2};
  std::vector<ScoredId> found_;
};

TEST(PartScorerTest, APictureOfOneKindOfCellScoresItsCosine) {
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({0, 5}));
  EXPECT_NEAR(ValueOrDie(scorer.Score(Grid(2, 1, {3, 4, 3, 4}))), 0.8F,
              kTolerance);
  EXPECT_EQ(scorer.stage(), "best_part");
}

TEST(PartScorerTest, WhatFitsTheQueryCountsMost) {
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({0, 1}));
  // Weights 1 and e^(-1 / 0.1): next to nothing of the other cell is left.
  EXPECT_NEAR(ValueOrDie(scorer.Score(Grid(1, 2, {1, 0, 0, 1}))), 1,
              kTolerance);
  EXPECT_NEAR(ValueOrDie(scorer.Score(Video({9, 1}, {1, 0, 0, 1}))), 1,
              kTolerance);
}

TEST(PartScorerTest, FramesCountAsOftenAsTheyAreShown) {
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({1, 1}));
  // Both frames fit alike, so the mean is (3, 1) and its cosine 4 / sqrt(20).
  EXPECT_NEAR(ValueOrDie(scorer.Score(Video({3, 1}, {1, 0, 0, 1}))),
              4 / std::sqrt(20.0), kTolerance);
}

TEST(PartScorerTest, IsTheCosineOfTheFramesPooledForTheQuery) {
  std::mt19937 random(3);
  std::normal_distribution<float> value;
  const int64_t rows = 49;
  const int64_t columns = 512;
  std::vector<float> frames(rows * columns);
  for (float& number : frames) number = value(random) + 0.3F;
  std::vector<float> query(columns);
  for (float& number : query) number = value(random) + 0.3F;
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < rows; ++i) samples.push_back(1 + i % 3);
  const PartFeatures video = Video(samples, frames);
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart(query));
  double squares = 0;
  for (const float number : query) squares += double{number} * number;
  for (float& number : query) {
    number = static_cast<float>(number / std::sqrt(squares));
  }
  const Matrix exact = Dequantize(video.features);
  const std::vector<float> pooled =
      ValueOrDie(PoolFramesForQuery(exact.view(), samples, query));
  double cosine = 0;
  for (int64_t i = 0; i < columns; ++i) cosine += double{pooled[i]} * query[i];
  EXPECT_NEAR(ValueOrDie(scorer.Score(video)), cosine, 0.003);
}

TEST(PartScorerTest, CompressedFeaturesScoreAsWhatComesBackOfThem) {
  const int64_t columns = 512;
  const std::vector<float> query(columns, 1);
  const Matrix tokens = RandomRows(5, columns, 4);
  for (const bool is_video : {false, true}) {
    const Matrix rows = RandomRows(is_video ? 80 : 49, columns, 5);
    PartFeatures parts =
        is_video ? Video(std::vector<int64_t>(80, 2),
                         {rows.data(), rows.data() + 80 * columns})
                 : Grid(7, 7, {rows.data(), rows.data() + 49 * columns});
    const CompressedFeatures compressed = CompressUnitRows(rows.view());
    const std::string bytes = EncodeParts(parts, compressed);
    PartsReader reader;
    const PartsView view = ValueOrDie(reader.Read(bytes));
    // Lengths as they come back: none is made one.
    parts.features = QuantizeUnitRows(Decompress(compressed).view());
    const Matrix back = Decompress(compressed);
    for (int64_t row = 0; row < back.rows(); ++row) {
      double squares = 0;
      for (const float value : back.row(row)) squares += double{value} * value;
      parts.features.scales[row] *= static_cast<float>(std::sqrt(squares));
    }
    for (const PartScorer& scorer :
         {ValueOrDie(PartScorer::BestPart(query)),
          ValueOrDie(PartScorer::ByTokens(tokens.view(), query))}) {
      const PartScorer::Found found = ValueOrDie(scorer.Find(view));
      const PartScorer::Found expected = ValueOrDie(scorer.Find(parts));
      EXPECT_NEAR(found.score, expected.score, 0.003);
      EXPECT_NEAR(found.evidence.score, expected.evidence.score, 0.003);
      EXPECT_EQ(found.evidence.box.has_value(), !is_video);
    }
  }
}

TEST(PartScorerTest, TheEvidenceIsTheNearestPart) {
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({0, 1}));
  const Evidence cell =
      scorer.BestEvidence(Grid(2, 2, {1, 0, 1, 0, 0.6F, 0.8F, 1, 0}));
  EXPECT_NEAR(cell.score, 0.8F, kTolerance);
  ASSERT_TRUE(cell.box.has_value());
  EXPECT_FLOAT_EQ(cell.box->left, 0);
  EXPECT_FLOAT_EQ(cell.box->top, 0.5F);
  const Evidence frame = scorer.BestEvidence(Video({1, 1}, {1, 0, 0, 1}));
  ASSERT_TRUE(frame.span.has_value());
  EXPECT_DOUBLE_EQ(frame.span->start, 1);
  EXPECT_DOUBLE_EQ(frame.span->end, 2);
}

TEST(PartScorerTest, EveryTokenTakesItsBestCell) {
  const Matrix tokens(2, 2, {1, 0, 0, 2});
  const PartScorer scorer =
      ValueOrDie(PartScorer::ByTokens(tokens.view(), {1, 1}));
  EXPECT_EQ(scorer.stage(), "late_interaction");
  // (1 + 0.8) / 2.
  EXPECT_NEAR(ValueOrDie(scorer.Score(Grid(1, 2, {1, 0, 0.6F, 0.8F}))), 0.9F,
              kTolerance);
}

TEST(PartScorerTest, RefusesWhatCannotBeCompared) {
  EXPECT_THAT(PartScorer::BestPart({0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({1, 0, 0}));
  EXPECT_THAT(scorer.Score(Grid(1, 1, {1, 0})),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("2"), HasSubstr("3"))));
}

TEST(BlendScoresTest, FineScoresTakeOnTheCoarseOnesMeanAndDeviation) {
  std::vector<Candidate> candidates = {
      {.id = "a", .coarse = 0.4F, .fine = 10.0F},
      {.id = "b", .coarse = 0.2F, .fine = 30.0F},
      {.id = "c", .coarse = 0.9F},
      {.id = "d", .coarse = 0.1F, .fine = -5.0F, .is_video = true}};
  BlendScores(0.25F, absl::MakeSpan(candidates));
  // The pictures' coarse scores are 0.3 +- 0.1, their fine ones 20 +- 10: 10
  // becomes 0.2 and 30 becomes 0.4.
  EXPECT_FLOAT_EQ(candidates[0].score, 0.75F * 0.4F + 0.25F * 0.2F);
  EXPECT_FLOAT_EQ(candidates[1].score, 0.75F * 0.2F + 0.25F * 0.4F);
  // One without parts, and the only one of its kind, stay where they were.
  EXPECT_FLOAT_EQ(candidates[2].score, 0.9F);
  EXPECT_FLOAT_EQ(candidates[3].score, 0.1F);
}

TEST_F(RerankTest, TheFineScoreAloneOrdersAtWeightOne) {
  Add("worst", 0.9F, Parts({0, 1}));
  Add("best", 0.8F, Parts({0, 1, 1, 0}));
  Add("middle", 0.7F, Parts({1, 1}));
  EXPECT_THAT(Ids(Run({.weight = 1})), ElementsAre("best", "middle", "worst"));
  EXPECT_THAT(Ids(Run({.weight = 0})), ElementsAre("worst", "best", "middle"));
  EXPECT_THAT(Run({}).degraded_reasons, IsEmpty());
}

TEST_F(RerankTest, BehindTheDepthTheCoarseScoresStay) {
  Add("a", 0.9F, Parts({0, 1}));
  Add("b", 0.8F, Parts({1, 0}));
  Add("c", 0.1F, Parts({1, 0}));
  const Reranked reranked = Run({.depth = 2, .weight = 1});
  EXPECT_THAT(Ids(reranked), ElementsAre("b", "a", "c"));
  EXPECT_FLOAT_EQ(reranked.candidates[2].score, 0.1F);
  EXPECT_FALSE(reranked.candidates[2].fine.has_value());
}

// A collection whose `parts` were changed has items of both forms.
TEST_F(RerankTest, ItemsOfBothFormsAreComparedWithEachOther) {
  const auto compressed = [](std::vector<float> cells) {
    const auto rows = static_cast<int64_t>(cells.size()) / 2;
    return EncodeParts(
        Grid(1, rows, cells),
        CompressUnitRows({.data = cells.data(), .rows = rows, .columns = 2}));
  };
  Add("worst", 0.9F, compressed({0, 1}));
  Add("best", 0.8F, compressed({0, 1, 1, 0}));
  Add("middle", 0.7F, Parts({1, 1}));
  const Reranked reranked = Run({.weight = 1});
  EXPECT_THAT(Ids(reranked), ElementsAre("best", "middle", "worst"));
  EXPECT_THAT(reranked.degraded_reasons, IsEmpty());
  ASSERT_EQ(reranked.candidates.front().evidence.size(), 1u);
  EXPECT_FLOAT_EQ(reranked.candidates.front().evidence.front().box->left, 0.5F);
}

TEST_F(RerankTest, TellsOfCandidatesWithoutParts) {
  Add("a", 0.9F, "");
  Add("b", 0.8F, Parts({0, 1}));
  Add("c", 0.7F, Parts({1, 0}));
  Add("d", 0.6F, "damaged");
  Add("e", 0.5F, Parts({1, 0}).substr(0, 40));
  const Reranked reranked = Run({.weight = 1});
  EXPECT_THAT(Ids(reranked), ElementsAre("a", "c", "b", "d", "e"));
  EXPECT_THAT(reranked.degraded_reasons,
              ElementsAre(AllOf(HasSubstr("of 5"), HasSubstr("3 have no"))));
}

TEST_F(RerankTest, GivesUpBeforeTheDeadline) {
  for (int i = 0; i < 1000; ++i) {
    Add(absl::StrCat(1000 + i), 1.0F / static_cast<float>(i + 1),
        Parts({static_cast<float>(i), 1}));
  }
  const TickingClock clock;
  const RequestContext context(&clock, "test",
                               absl::UnixEpoch() + absl::Seconds(20));
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({1, 0}));
  const Reranked reranked = ValueOrDie(
      Rerank(context, {.depth = 1000, .weight = 1}, scorer, store_, found_));
  EXPECT_EQ(reranked.candidates.front().id, "1000");
  EXPECT_EQ(reranked.candidates.back().id, "1999");
  EXPECT_FALSE(reranked.candidates.front().fine.has_value());
  EXPECT_THAT(reranked.degraded_reasons, ElementsAre(HasSubstr("no time")));
}

TEST_F(RerankTest, EndsWhenTheCallerHasGone) {
  Add("a", 0.9F, Parts({0, 1}));
  RequestContext context(&clock_, "test");
  context.Cancel();
  const PartScorer scorer = ValueOrDie(PartScorer::BestPart({1, 0}));
  EXPECT_THAT(Rerank(context, {}, scorer, store_, found_),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(RerankTest, NothingFoundIsNothingToRerank) {
  EXPECT_THAT(Run({}).candidates, IsEmpty());
}

}  // namespace
}  // namespace quern
