#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/base/thread_pool.h"
#include "engine/query/engine.h"
#include "quern/v1/models.pb.h"
#include "server/rpc_service.h"

namespace quern {

// Reads, builds and checks a package; takes seconds. The request's path is
// resolved. Errors: those of LoadModel().
using ModelLoader = std::function<absl::StatusOr<std::shared_ptr<const Model>>(
    const v1::LoadModelRequest& request)>;

// quern.v1.Models. Thread-safe.
class ModelsService final : public RpcService {
 public:
  // The first two must outlive the service. `roots` is models.roots.
  ModelsService(const RpcEnvironment* environment, const Engine* engine,
                ModelLoader load, std::vector<std::string> roots);

 private:
  absl::Status List(RequestContext& context,
                    const v1::ListModelsRequest& request,
                    v1::ListModelsResponse* response) const;
  absl::Status Get(RequestContext& context, const v1::GetModelRequest& request,
                   v1::Model* response) const;
  void Load(RequestContext& context, const v1::LoadModelRequest& request,
            v1::Model* response, Done done) const;
  absl::Status Unload(RequestContext& context,
                      const v1::UnloadModelRequest& request,
                      v1::UnloadModelResponse* response) const;
  absl::Status SetDefault(RequestContext& context,
                          const v1::SetDefaultModelRequest& request,
                          v1::Model* response) const;

  absl::Status LoadNow(const RequestContext& context,
                       const v1::LoadModelRequest& request,
                       v1::Model* response) const;
  void Encode(const Model& model, v1::Model::State state, v1::Model* out) const;

  const Engine* const engine_;
  const ModelLoader load_;
  const std::vector<std::string> roots_;
  // One model at a time: the calls' threads go on serving meanwhile.
  const std::unique_ptr<ThreadPool> loader_;
};

}  // namespace quern
