#include "server/models_service.h"

#include <utility>

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"

namespace quern {
namespace {

constexpr size_t kMaxQueuedLoads = 16;

}  // namespace

ModelsService::ModelsService(const RpcEnvironment* environment,
                             const Engine* engine, ModelLoader load,
                             std::vector<std::string> roots)
    : RpcService(v1::Model::descriptor()->file()->FindServiceByName("Models"),
                 environment),
      engine_(engine),
      load_(std::move(load)),
      roots_(std::move(roots)),
      loader_(std::make_unique<ThreadPool>(
          ThreadPoolOptions{.name = "model-loader",
                            .threads = 1,
                            .max_queue = kMaxQueuedLoads})) {
  Handle("List", this, &ModelsService::List);
  Handle("Get", this, &ModelsService::Get);
  Handle("Load", this, &ModelsService::Load);
  Handle("Unload", this, &ModelsService::Unload);
  Handle("SetDefault", this, &ModelsService::SetDefault);
}

absl::Status ModelsService::List(RequestContext& /*context*/,
                                 const v1::ListModelsRequest& /*request*/,
                                 v1::ListModelsResponse* response) const {
  for (const std::shared_ptr<const Model>& model : engine_->models().List()) {
    Encode(*model, v1::Model::STATE_READY, response->add_models());
  }
  for (const std::shared_ptr<const Model>& model :
       engine_->models().Draining()) {
    Encode(*model, v1::Model::STATE_DRAINING, response->add_models());
  }
  return absl::OkStatus();
}

absl::Status ModelsService::Get(RequestContext& /*context*/,
                                const v1::GetModelRequest& request,
                                v1::Model* response) const {
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                         engine_->models().Get(request.name()));
  Encode(*model, v1::Model::STATE_READY, response);
  return absl::OkStatus();
}

void ModelsService::Load(RequestContext& context,
                         const v1::LoadModelRequest& request,
                         v1::Model* response, Done done) const {
  const auto shared_done = std::make_shared<const Done>(std::move(done));
  const absl::Status submitted =
      loader_->Submit([this, &context, &request, response, shared_done] {
        (*shared_done)(LoadNow(context, request, response));
      });
  if (!submitted.ok()) (*shared_done)(submitted);
}

absl::Status ModelsService::LoadNow(const RequestContext& context,
                                    const v1::LoadModelRequest& request,
                                    v1::Model* response) const {
  QUERN_RETURN_IF_ERROR(context.Check("load"));
  QUERN_RETURN_IF_ERROR(RequireName(request.path(), "path"));
  v1::LoadModelRequest resolved = request;
  absl::StatusOr<std::string> path = ResolveBelow(request.path(), roots_);
  if (absl::IsInvalidArgument(path.status())) {
    return InvalidField("path", path.status().message());
  }
  if (!path.ok()) return Annotate(path.status(), "path");
  resolved.set_path(*std::move(path));
  QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, load_(resolved));
  Encode(*model, v1::Model::STATE_READY, response);
  engine_->models().Put(std::move(model));
  response->set_is_default(response->name() ==
                           engine_->models().default_name());
  return absl::OkStatus();
}

absl::Status ModelsService::Unload(
    RequestContext& /*context*/, const v1::UnloadModelRequest& request,
    v1::UnloadModelResponse* /*response*/) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  return engine_->UnloadModel(request.name(), request.force());
}

absl::Status ModelsService::SetDefault(
    RequestContext& context, const v1::SetDefaultModelRequest& request,
    v1::Model* response) const {
  QUERN_RETURN_IF_ERROR(RequireName(request.name(), "name"));
  QUERN_RETURN_IF_ERROR(engine_->models().SetDefault(request.name()));
  v1::GetModelRequest get;
  get.set_name(request.name());
  return Get(context, get, response);
}

void ModelsService::Encode(const Model& model, v1::Model::State state,
                           v1::Model* out) const {
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
    out->add_modalities(v1::MODALITY_VIDEO);
    out->set_image_width(static_cast<int32_t>(model.preprocessing().width));
    out->set_image_height(static_cast<int32_t>(model.preprocessing().height));
  }
  out->set_device(info.device);
  out->set_precision(info.precision == Precision::kBf16
                         ? v1::Model::PRECISION_BF16
                         : v1::Model::PRECISION_FP32);
  out->set_memory_bytes(info.memory_bytes);
  out->set_state(state);
  out->set_is_default(state == v1::Model::STATE_READY &&
                      info.name == engine_->models().default_name());
  *out->mutable_load_time() = EncodeTime(info.load_time);
}

}  // namespace quern
