#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "engine/fine/scorer.h"
#include "engine/model/model_registry.h"

namespace quern {

// The built-in scorer: what the features say, whoever sends them. It runs no
// model. Thread-safe.
//
// RERANK compares by the first of these that the request has features for, all
// candidates alike: the query's tokens against cells or frames; its vector
// against them (PartScorer); its vector against the candidates' embeddings, by
// their cosine. REGIONS and SEGMENTS find the query's vector in a grid or in
// frames; a candidate's score is its best one's.
class FeatureScorer final : public Scorer {
 public:
  // `models`, whose calibrations give probabilities to the features that they
  // made, must outlive it; null: there are none.
  FeatureScorer(std::string version, const ModelRegistry* models)
      : version_(std::move(version)), models_(models) {}

  absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& context) const override;

  // A candidate that lacks what the others have has the status
  // kInvalidArgument, and so has one whose features cannot be compared.
  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const ScoreRequest& request) const override;

 private:
  const std::string version_;
  const ModelRegistry* const models_;
};

}  // namespace quern
