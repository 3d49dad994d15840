#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "engine/fine/scorer.h"
#include "engine/media/image.h"
#include "engine/model/model.h"

namespace quern {

// A model's match head, which sees the query's text and a candidate's picture
// at once (Li et al., "BLIP", 2022, image-text matching). Does RERANK, of
// candidates with media; a score is the head's logit. A forward pass cannot be
// stopped: the deadline is looked at between them. Thread-safe.
class MatchScorer final : public Scorer {
 public:
  // `model` has the capability "match"; `images` must outlive the scorer.
  MatchScorer(std::shared_ptr<const Model> model, const ImageDecoder* images)
      : model_(std::move(model)), images_(images) {}

  absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& context) const override;

  // Errors: also those of the model.
  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const ScoreRequest& request) const override;

 private:
  absl::StatusOr<std::vector<float>> Pixels(
      const ScoreCandidate& candidate) const;

  const std::shared_ptr<const Model> model_;
  const ImageDecoder* const images_;
};

}  // namespace quern
