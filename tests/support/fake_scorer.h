#pragma once

#include <numeric>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/scorer.h"

namespace quern {

// A Scorer by the plain inner product; its evidence is the whole picture.
// Thread-safe.
class FakeScorer : public Scorer {
 public:
  absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& /*context*/) const override {
    return ScorerInfo{.name = "fake",
                      .version = "1",
                      .tasks = {ScoreTask::kRerank},
                      .needs = {.embedding = true}};
  }

  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const ScoreRequest& request) const override {
    QUERN_RETURN_IF_ERROR(context.Check("scoring"));
    if (request.query.embedding.empty()) {
      return InvalidField("query.embedding", "is missing");
    }
    std::vector<CandidateScore> scores;
    for (const ScoreCandidate& candidate : request.candidates) {
      CandidateScore& score = scores.emplace_back();
      if (candidate.embedding.size() != request.query.embedding.size()) {
        score.status =
            InvalidField("embedding", "is missing or of another size");
        continue;
      }
      score.score = std::inner_product(request.query.embedding.begin(),
                                       request.query.embedding.end(),
                                       candidate.embedding.begin(), 0.0F);
      const Box everything{.left = 0, .top = 0, .right = 1, .bottom = 1};
      score.evidence.push_back({.box = everything, .score = score.score});
    }
    return scores;
  }
};

}  // namespace quern
