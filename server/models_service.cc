#include "server/models_service.h"

#include <memory>

#include "engine/base/status_macros.h"

namespace quern {

ModelsService::ModelsService(const RpcEnvironment* environment,
                             const ModelRegistry* models)
    : RpcService(v1::Model::descriptor()->file()->FindServiceByName("Models"),
                 environment),
      models_(models) {
  Handle("List", this, &ModelsService::List);
  Handle("Get", this, &ModelsService::Get);
}

absl::Status ModelsService::List(RequestContext& /*context*/,
                                 const v1::ListModelsRequest& /*request*/,
                                 v1::ListModelsResponse* response) const {
  for (const std::shared_ptr<const Model>& model : models_->List()) {
    Encode(*model, response->add_models());
  }
  return absl::OkStatus();
}

absl::Status ModelsService::Get(RequestContext& /*context*/,
                                const v1::GetModelRequest& request,
                                v1::Model* response) const {
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                         models_->Get(request.name()));
  Encode(*model, response);
  return absl::OkStatus();
}

void ModelsService::Encode(const Model& model, v1::Model* out) const {
  const ModelInfo& info = model.info();
  out->set_name(info.name);
  out->set_version(info.version);
  out->set_description(info.description);
  out->set_licence(info.licence);
  out->set_fingerprint(info.fingerprint);
  out->set_dimension(static_cast<int32_t>(info.dimension));
  out->mutable_capabilities()->Add(info.capabilities.begin(),
                                   info.capabilities.end());
  if (info.Has("text.global")) {
    out->add_modalities(v1::MODALITY_TEXT);
    out->set_max_tokens(static_cast<int32_t>(info.max_tokens));
  }
  if (info.Has("image.global")) {
    out->add_modalities(v1::MODALITY_IMAGE);
    out->set_image_width(static_cast<int32_t>(model.preprocessing().width));
    out->set_image_height(static_cast<int32_t>(model.preprocessing().height));
  }
  out->set_device(info.device);
  out->set_precision(v1::Model::PRECISION_FP32);
  out->set_memory_bytes(info.memory_bytes);
  out->set_is_default(info.name == models_->default_name());
  // The registry holds only models whose canary has passed.
  out->set_state(v1::Model::STATE_READY);
}

}  // namespace quern
