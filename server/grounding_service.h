#pragma once

#include "engine/query/engine.h"
#include "quern/v1/grounding.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Grounding. Thread-safe.
class GroundingService final : public RpcService {
 public:
  // Both must outlive the service.
  GroundingService(const RpcEnvironment* environment, const Engine* engine);

 private:
  void GroundRegions(RequestContext& context,
                     const v1::GroundRegionsRequest& request,
                     v1::GroundRegionsResponse* response, Done done) const;
  void GroundSegments(RequestContext& context,
                      const v1::GroundSegmentsRequest& request,
                      v1::GroundSegmentsResponse* response, Done done) const;

  const Engine* const engine_;
};

}  // namespace quern
