#pragma once

#include "absl/status/status.h"

#include "engine/model/model_registry.h"
#include "quern/v1/models.pb.h"
#include "server/rpc_service.h"

namespace quern {

// quern.v1.Models. Thread-safe.
class ModelsService final : public RpcService {
 public:
  // Both must outlive the service.
  ModelsService(const RpcEnvironment* environment, const ModelRegistry* models);

 private:
  absl::Status List(RequestContext& context,
                    const v1::ListModelsRequest& request,
                    v1::ListModelsResponse* response) const;
  absl::Status Get(RequestContext& context, const v1::GetModelRequest& request,
                   v1::Model* response) const;

  void Encode(const Model& model, v1::Model* out) const;

  const ModelRegistry* const models_;
};

}  // namespace quern
