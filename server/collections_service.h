#pragma once

#include "absl/status/status.h"

#include "engine/query/engine.h"
#include "quern/v1/collections.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Collections. Thread-safe.
class CollectionsService final : public RpcService {
 public:
  // Both must outlive the service.
  CollectionsService(const RpcEnvironment* environment, const Engine* engine);

 private:
  absl::Status Create(RequestContext& context,
                      const v1::CreateCollectionRequest& request,
                      v1::Collection* response) const;
  absl::Status Get(RequestContext& context,
                   const v1::GetCollectionRequest& request,
                   v1::Collection* response) const;
  absl::Status List(RequestContext& context,
                    const v1::ListCollectionsRequest& request,
                    v1::ListCollectionsResponse* response) const;
  absl::Status Delete(RequestContext& context,
                      const v1::DeleteCollectionRequest& request,
                      v1::DeleteCollectionResponse* response) const;

  const Engine* const engine_;
};

}  // namespace quern
