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

// What every Scorer must do, whatever it scores by. A backend runs the suite by
// one line in tests/fine/scorer_test.cc.

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
    query_.text = "an owl in the snow";
    query_.embedding = RandomUnitVector();
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

  std::vector<float> Scores(const std::vector<ScoreCandidate>& candidates) {
    std::vector<float> scores;
    for (const CandidateScore& score :
         ValueOrDie(scorer_->Score(context_, query_, candidates))) {
      scores.push_back(score.score);
    }
    return scores;
  }

  std::mt19937 random_{42};
  FakeClock clock_{absl::FromUnixSeconds(1000)};
  RequestContext context_{&clock_, "test"};
  ScoreQuery query_;
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

TEST_P(ScorerContract, NamesTheCandidateWithoutAnEmbedding) {
  std::vector<ScoreCandidate> candidates = MakeCandidates(3);
  candidates[1].id = "the bare one";
  candidates[1].embedding.clear();
  EXPECT_THAT(scorer_->Score(context_, query_, candidates),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       testing::HasSubstr("the bare one")));
}

TEST_P(ScorerContract, StopsForCancellationAndDeadline) {
  const std::vector<ScoreCandidate> candidates = MakeCandidates(3);
  RequestContext cancelled(&clock_, "cancelled");
  cancelled.Cancel();
  EXPECT_THAT(scorer_->Score(cancelled, query_, candidates),
              StatusIs(absl::StatusCode::kCancelled));
  const RequestContext late(&clock_, "late", clock_.Now());
  EXPECT_THAT(scorer_->Score(late, query_, candidates),
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
