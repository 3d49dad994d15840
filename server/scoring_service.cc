#include "server/scoring_service.h"

#include <vector>

#include "engine/base/status_macros.h"
#include "engine/fine/scoring_codec.h"

namespace quern {

ScoringService::ScoringService(const RpcEnvironment* environment,
                               const Scorer* scorer)
    : RpcService(
          v1::ScoreRequest::descriptor()->file()->FindServiceByName("Scoring"),
          environment),
      scorer_(scorer) {
  Handle("Score", this, &ScoringService::Score);
  Handle("Describe", this, &ScoringService::Describe);
}

absl::Status ScoringService::Score(RequestContext& context,
                                   const v1::ScoreRequest& request,
                                   v1::ScoreResponse* response) const {
  QUERN_ASSIGN_OR_RETURN(const ScoreRequest decoded,
                         DecodeScoreRequest(request));
  QUERN_ASSIGN_OR_RETURN(const ScorerInfo info, scorer_->Describe(context));
  StageTimer timer(context, "score");
  QUERN_ASSIGN_OR_RETURN(const std::vector<CandidateScore> scores,
                         scorer_->Score(context, decoded));
  EncodeScores(decoded, scores, info, response);
  return absl::OkStatus();
}

absl::Status ScoringService::Describe(
    RequestContext& context, const v1::DescribeScorerRequest& /*request*/,
    v1::ScorerDescription* response) const {
  QUERN_ASSIGN_OR_RETURN(const ScorerInfo info, scorer_->Describe(context));
  EncodeScorerInfo(info, response);
  return absl::OkStatus();
}

}  // namespace quern
