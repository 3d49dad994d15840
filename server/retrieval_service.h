#pragma once

#include "absl/status/status.h"

#include "engine/query/engine.h"
#include "quern/v1/retrieval.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Retrieval. Thread-safe.
class RetrievalService final : public RpcService {
 public:
  // Both must outlive the service.
  RetrievalService(const RpcEnvironment* environment, const Engine* engine);

 private:
  void Search(RequestContext& context, const v1::SearchRequest& request,
              v1::SearchResponse* response, Done done) const;

  const Engine* const engine_;
};

}  // namespace quern
