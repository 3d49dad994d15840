#pragma once

#include <cstdint>

#include "engine/query/engine.h"
#include "quern/v1/embedding.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Embedding. Thread-safe.
class EmbeddingService final : public RpcService {
 public:
  // Both must outlive the service. `max_inputs` is limits.max_inputs,
  // `stream_window` server.stream_window.
  EmbeddingService(const RpcEnvironment* environment, const Engine* engine,
                   int64_t max_inputs, int64_t stream_window);

 private:
  void Embed(RequestContext& context, const v1::EmbedRequest& request,
             v1::EmbedResponse* response, Done done) const;

  const Engine* const engine_;
  const int64_t max_inputs_;
};

}  // namespace quern
