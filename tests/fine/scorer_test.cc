#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/fine/embedding_scorer.h"
#include "tests/contract/scorer_contract.h"
#include "tests/support/fake_scorer.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

INSTANTIATE_TEST_SUITE_P(
    Backends, ScorerContract,
    testing::Values(
        ScorerBackend{"Embedding",
                      [] { return std::make_unique<EmbeddingScorer>(); }},
        ScorerBackend{"Fake", [] { return std::make_unique<FakeScorer>(); }}),
    [](const auto& info) { return info.param.name; });

class EmbeddingScorerTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<CandidateScore>> Score(
      std::vector<float> query, std::vector<float> candidate) const {
    const RequestContext context(&clock_, "test");
    const ScoreCandidate candidates[] = {
        {.id = "owl", .embedding = std::move(candidate)}};
    return EmbeddingScorer().Score(
        context, {.text = "", .embedding = std::move(query)}, candidates);
  }

  FakeClock clock_{absl::FromUnixSeconds(1000)};
};

TEST_F(EmbeddingScorerTest, ScoresByTheCosine) {
  EXPECT_EQ(ValueOrDie(Score({3, 4}, {30, 40}))[0].score, 1);
  EXPECT_EQ(ValueOrDie(Score({3, 4}, {-3, -4}))[0].score, -1);
  EXPECT_FLOAT_EQ(ValueOrDie(Score({1, 0}, {1, 1}))[0].score,
                  static_cast<float>(std::sqrt(0.5)));
  EXPECT_FLOAT_EQ(ValueOrDie(Score({3e38F, 0}, {3e38F, 0}))[0].score, 1);
}

TEST_F(EmbeddingScorerTest, RefusesWhatHasNoCosineAndNamesTheCandidate) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& bad :
       std::vector<std::vector<float>>{{}, {1}, {0, 0}, {1, nan}}) {
    EXPECT_THAT(Score({1, 0}, bad), StatusIs(absl::StatusCode::kInvalidArgument,
                                             testing::HasSubstr("owl")));
  }
  EXPECT_THAT(Score({0, 0}, {1, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       testing::HasSubstr("query.embedding")));
}

}  // namespace
}  // namespace quern
