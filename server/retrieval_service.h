#pragma once

#include "absl/status/status.h"

#include "engine/query/engine.h"
#include "quern/v1/retrieval.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Retrieval. Thread-safe.
class RetrievalService final : public RpcService {
 public:
  // Both must outlive the service. `max_searches` is that of one batch.
  RetrievalService(const RpcEnvironment* environment, const Engine* engine,
                   int64_t max_searches);

 private:
  void Search(RequestContext& context, const v1::SearchRequest& request,
              v1::SearchResponse* response, Done done) const;
  void BatchSearch(RequestContext& context,
                   const v1::BatchSearchRequest& request,
                   v1::BatchSearchResponse* response, Done done) const;

  const Engine* const engine_;
  const int64_t max_searches_;
};

}  // namespace quern
