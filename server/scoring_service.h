#pragma once

#include "engine/fine/scorer.h"
#include "quern/v1/scoring.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Scoring, served by any scorer. Thread-safe.
class ScoringService final : public RpcService {
 public:
  // Both must outlive the service.
  ScoringService(const RpcEnvironment* environment, const Scorer* scorer);

 private:
  absl::Status Score(RequestContext& context, const v1::ScoreRequest& request,
                     v1::ScoreResponse* response) const;
  absl::Status Describe(RequestContext& context,
                        const v1::DescribeScorerRequest& request,
                        v1::ScorerDescription* response) const;

  const Scorer* const scorer_;
};

}  // namespace quern
