#include "engine/fine/embedding_scorer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

// Candidates between two looks at the deadline; about a millisecond.
constexpr size_t kCandidatesPerCheck = 1024;

double Dot(absl::Span<const float> a, absl::Span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * b[i];
  }
  return sum;
}

// The norm of an embedding that a cosine can be taken of. Squares of floats
// cannot overflow a double: a sum that is not finite has such a value in it.
absl::StatusOr<double> CheckedNorm(absl::Span<const float> embedding) {
  if (embedding.empty()) return InvalidField("embedding", "is missing");
  const double norm = std::sqrt(Dot(embedding, embedding));
  if (!std::isfinite(norm)) {
    return InvalidField("embedding", "has a value that is not finite");
  }
  if (norm == 0) return InvalidField("embedding", "is zero");
  return norm;
}

absl::StatusOr<float> Cosine(absl::Span<const float> query, double query_norm,
                             absl::Span<const float> candidate) {
  QUERN_ASSIGN_OR_RETURN(double norm, CheckedNorm(candidate));
  if (candidate.size() != query.size()) {
    return InvalidField(
        "embedding", absl::StrCat("has ", candidate.size(),
                                  " values; the query's has ", query.size()));
  }
  const double cosine = Dot(query, candidate) / (query_norm * norm);
  return static_cast<float>(std::clamp(cosine, -1.0, 1.0));
}

}  // namespace

absl::StatusOr<std::vector<CandidateScore>> EmbeddingScorer::Score(
    const RequestContext& context, const ScoreQuery& query,
    absl::Span<const ScoreCandidate> candidates) const {
  QUERN_RETURN_IF_ERROR(context.Check("scoring"));
  std::vector<CandidateScore> scores;
  if (candidates.empty()) return scores;
  absl::StatusOr<double> query_norm = CheckedNorm(query.embedding);
  if (!query_norm.ok()) return InField(query_norm.status(), "query");

  scores.reserve(candidates.size());
  for (const ScoreCandidate& candidate : candidates) {
    if (scores.size() % kCandidatesPerCheck == kCandidatesPerCheck - 1) {
      QUERN_RETURN_IF_ERROR(context.Check("the end of scoring"));
    }
    absl::StatusOr<float> cosine =
        Cosine(query.embedding, *query_norm, candidate.embedding);
    if (!cosine.ok()) {
      return InField(cosine.status(),
                     absl::StrCat("candidates[", Quoted(candidate.id), "]"));
    }
    scores.push_back({.score = *cosine, .evidence = {}});
  }
  return scores;
}

}  // namespace quern
