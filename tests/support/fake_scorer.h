#pragma once

#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/scorer.h"

namespace quern {

// A Scorer by the plain inner product; its evidence is the whole picture.
// Thread-safe.
class FakeScorer final : public Scorer {
 public:
  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context, const ScoreQuery& query,
      absl::Span<const ScoreCandidate> candidates) const override {
    QUERN_RETURN_IF_ERROR(context.Check("scoring"));
    std::vector<CandidateScore> scores;
    for (const ScoreCandidate& candidate : candidates) {
      if (candidate.embedding.size() != query.embedding.size()) {
        return InvalidField(
            absl::StrCat("candidates[", Quoted(candidate.id), "].embedding"),
            "is missing or of the wrong size");
      }
      const float score =
          std::inner_product(query.embedding.begin(), query.embedding.end(),
                             candidate.embedding.begin(), 0.0F);
      const Box everything{.left = 0, .top = 0, .right = 1, .bottom = 1};
      scores.push_back(
          {.score = score,
           .evidence = {
               {.box = everything, .span = std::nullopt, .score = score}}});
    }
    return scores;
  }
};

}  // namespace quern
