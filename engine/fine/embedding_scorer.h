#pragma once

#include <vector>

#include "engine/fine/scorer.h"

namespace quern {

// Scores by the exact cosine of the query's and the candidate's embedding, in
// double precision; gives no evidence. It repeats the coarse stage's judgement:
// the plainest scorer, for models without dense features. Thread-safe.
class EmbeddingScorer final : public Scorer {
 public:
  // Scores are in [-1, 1].
  // Errors, besides those of Scorer:
  //   kInvalidArgument  an embedding that is missing, of another dimension than
  //                     the query's, not finite or zero; names the candidate
  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context, const ScoreQuery& query,
      absl::Span<const ScoreCandidate> candidates) const override;
};

}  // namespace quern
