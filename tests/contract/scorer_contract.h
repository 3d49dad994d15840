#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/fine/scorer.h"
#include "tests/support/status_matchers.h"

// What every Scorer of embeddings must do, wherever it runs. A backend runs the
// suite by one line in tests/query/scorer_test.cc.

namespace quern {

struct ScorerBackend {
  std::string name;
  std::function<std::unique_ptr<Scorer>()> create;
};

inline void PrintTo(const ScorerBackend& backend, std::ostream* out) {
  *out << backend.name;
}

class ScorerContract : public testing::TestWithParam<ScorerBackend> {
 protected:
  static constexpr size_t kDimension = 16;

  ScorerContract() : scorer_(GetParam().create()) {
    request_.query.text = "an owl in the snow";
    request_.query.embedding = RandomUnitVector();
  }

  std::vector<float> RandomUnitVector() {
    std::normal_distribution<float> normal;
    std::vector<float> vector(kDimension);
    float squared_norm = 0;
    for (float& value : vector) {
      value = normal(random_);
      squared_norm += value * value;
    }
    for (float& value : vector) value /= std::sqrt(squared_norm);
    return vector;
  }

  std::vector<ScoreCandidate> MakeCandidates(int count) {
    std::vector<ScoreCandidate> candidates;
    candidates.reserve(count);
    for (int i = 0; i < count; ++i) {
      candidates.push_back(
          {.id = absl::StrCat("item", i), .embedding = RandomUnitVector()});
    }
    return candidates;
  }

  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const std::vector<ScoreCandidate>& candidates) const {
    ScoreRequest request = request_;
    request.candidates = candidates;
    return scorer_->Score(context, request);
  }

  std::vector<float> Scores(
      const std::vector<ScoreCandidate>& candidates) const {
    std::vector<float> scores;
    for (const CandidateScore& score :
         ValueOrDie(Score(context_, candidates))) {
      EXPECT_THAT(score.status, IsOk());
      scores.push_back(score.score);
    }
    return scores;
  }

  std::mt19937 random_{42};
  FakeClock clock_{absl::FromUnixSeconds(1000)};
  RequestContext context_{&clock_, "test"};
  ScoreRequest request_;  // Without candidates.
  const std::unique_ptr<Scorer> scorer_;
};

TEST_P(ScorerContract, GivesOneFiniteScorePerCandidate) {
  for (const int count : {1, 2, 3000}) {
    const std::vector<float> scores = Scores(MakeCandidates(count));
    ASSERT_EQ(scores.size(), static_cast<size_t>(count));
    EXPECT_TRUE(std::all_of(scores.begin(), scores.end(),
                            [](float score) { return std::isfinite(score); }));
  }
}

TEST_P(ScorerContract, NoCandidatesGiveNoScores) {
  EXPECT_THAT(Scores({}), testing::IsEmpty());
}

TEST_P(ScorerContract, TheOrderOfCandidatesDoesNotChangeTheirScores) {
  std::vector<ScoreCandidate> candidates = MakeCandidates(50);
  const std::vector<float> scores = Scores(candidates);
  std::map<std::string, float> score_of;
  for (size_t i = 0; i < scores.size(); ++i) {
    score_of[candidates[i].id] = scores[i];
  }
  std::shuffle(candidates.begin(), candidates.end(), random_);
  const std::vector<float> shuffled = Scores(candidates);
  for (size_t i = 0; i < shuffled.size(); ++i) {
    EXPECT_EQ(shuffled[i], score_of[candidates[i].id]);
  }
}

TEST_P(ScorerContract, OneIdTwiceIsScoredTwice) {
  std::vector<ScoreCandidate> candidates = MakeCandidates(1);
  candidates.push_back(candidates[0]);
  const std::vector<float> scores = Scores(candidates);
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0], scores[1]);
}

TEST_P(ScorerContract, ACandidateWithoutAnEmbeddingHasNoScore) {
  std::vector<ScoreCandidate> candidates = MakeCandidates(3);
  const std::vector<float> scores = Scores(candidates);
  candidates[1].embedding.clear();
  const std::vector<CandidateScore> mixed =
      ValueOrDie(Score(context_, candidates));
  ASSERT_EQ(mixed.size(), 3u);
  EXPECT_THAT(mixed[1].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                        testing::HasSubstr("embedding")));
  EXPECT_EQ(mixed[0].score, scores[0]);
  EXPECT_EQ(mixed[2].score, scores[2]);
}

TEST_P(ScorerContract, RefusesAQueryWithoutAnEmbedding) {
  request_.query.embedding.clear();
  EXPECT_THAT(Score(context_, MakeCandidates(2)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       testing::HasSubstr("query.embedding")));
}

TEST_P(ScorerContract, SaysWhatItNeeds) {
  const ScorerInfo info = ValueOrDie(scorer_->Describe(context_));
  EXPECT_NE(info.name, "");
  EXPECT_THAT(info.tasks, testing::Contains(ScoreTask::kRerank));
  EXPECT_TRUE(info.needs.embedding);
}

TEST_P(ScorerContract, StopsForCancellationAndDeadline) {
  const std::vector<ScoreCandidate> candidates = MakeCandidates(3);
  RequestContext cancelled(&clock_, "cancelled");
  cancelled.Cancel();
  EXPECT_THAT(Score(cancelled, candidates),
              StatusIs(absl::StatusCode::kCancelled));
  const RequestContext late(&clock_, "late", clock_.Now());
  EXPECT_THAT(Score(late, candidates),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_P(ScorerContract, ManyThreadsGetTheScoresOfOne) {
  const std::vector<ScoreCandidate> candidates = MakeCandidates(100);
  const std::vector<float> expected = Scores(candidates);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] { EXPECT_EQ(Scores(candidates), expected); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace quern
