#include "server/grounding_service.h"

#include <memory>
#include <utility>

#include "engine/query/grounding.h"
#include "server/grounding_codec.h"

namespace quern {

GroundingService::GroundingService(const RpcEnvironment* environment,
                                   const Engine* engine)
    : RpcService(
          v1::GroundRegionsRequest::descriptor()->file()->FindServiceByName(
              "Grounding"),
          environment),
      engine_(engine) {
  Handle("GroundRegions", this, &GroundingService::GroundRegions);
  Handle("GroundSegments", this, &GroundingService::GroundSegments);
}

void GroundingService::GroundRegions(RequestContext& context,
                                     const v1::GroundRegionsRequest& request,
                                     v1::GroundRegionsResponse* response,
                                     Done done) const {
  absl::StatusOr<RegionQuery> query = DecodeGroundRegions(request);
  if (!query.ok()) return done(query.status());
  const auto kept = std::make_shared<const RegionQuery>(*std::move(query));
  quern::GroundRegions(*engine_, context, *kept,
                       [&context, response, kept, done = std::move(done)](
                           const absl::StatusOr<RegionResult>& result) {
                         if (result.ok())
                           EncodeRegions(*kept, *result, context, response);
                         done(result.status());
                       });
}

void GroundingService::GroundSegments(RequestContext& context,
                                      const v1::GroundSegmentsRequest& request,
                                      v1::GroundSegmentsResponse* response,
                                      Done done) const {
  absl::StatusOr<SegmentQuery> query = DecodeGroundSegments(request);
  if (!query.ok()) return done(query.status());
  const auto kept = std::make_shared<const SegmentQuery>(*std::move(query));
  const bool with_saliency = request.include_saliency();
  quern::GroundSegments(
      *engine_, context, *kept,
      [&context, response, kept, with_saliency,
       done = std::move(done)](const absl::StatusOr<SegmentResult>& result) {
        if (result.ok()) {
          EncodeSegments(*kept, *result, with_saliency, context, response);
        }
        done(result.status());
      });
}

}  // namespace quern
