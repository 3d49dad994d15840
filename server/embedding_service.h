#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/query/engine.h"
#include "quern/v1/embedding.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Embedding. Thread-safe.
class EmbeddingService final : public RpcService {
 public:
  // Both must outlive the service. `max_inputs` is limits.max_inputs.
  EmbeddingService(const RpcEnvironment* environment, const Engine* engine,
                   int64_t max_inputs);

 private:
  absl::Status Embed(RequestContext& context, const v1::EmbedRequest& request,
                     v1::EmbedResponse* response) const;
  // Errors have field paths as in Input.
  absl::StatusOr<Embedded> EmbedInput(RequestContext& context,
                                      const Model& model,
                                      const v1::Input& input) const;

  const Engine* const engine_;
  const int64_t max_inputs_;
};

}  // namespace quern
