#include "server/embedding_service.h"

#include <memory>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/grpc_status.h"

namespace quern {
namespace {

absl::Status CheckRequest(const v1::EmbedRequest& request, int64_t max_inputs) {
  QUERN_RETURN_IF_ERROR(RefuseFields(request, {"video"}));
  for (int i = 0; i < request.outputs_size(); ++i) {
    if (request.outputs(i) != v1::EMBEDDING_OUTPUT_UNSPECIFIED &&
        request.outputs(i) != v1::EMBEDDING_OUTPUT_GLOBAL) {
      return NotInThisVersion(absl::StrCat("outputs[", i, "]"));
    }
  }
  if (request.inputs_size() < 1 || request.inputs_size() > max_inputs) {
    return InvalidField("inputs",
                        absl::StrCat("there are ", request.inputs_size(),
                                     "; give 1 to ", max_inputs));
  }
  return absl::OkStatus();
}

void EncodeResult(const Embedded& embedded, v1::EmbedResult* out) {
  out->mutable_embedding()->mutable_values()->Add(embedded.embedding.begin(),
                                                  embedded.embedding.end());
  out->set_truncated(embedded.truncated);
  out->set_token_count(static_cast<int32_t>(embedded.tokens));
}

}  // namespace

EmbeddingService::EmbeddingService(const RpcEnvironment* environment,
                                   const Engine* engine, int64_t max_inputs)
    : RpcService(v1::EmbedRequest::descriptor()->file()->FindServiceByName(
                     "Embedding"),
                 environment),
      engine_(engine),
      max_inputs_(max_inputs) {
  Handle("Embed", this, &EmbeddingService::Embed);
}

absl::Status EmbeddingService::Embed(RequestContext& context,
                                     const v1::EmbedRequest& request,
                                     v1::EmbedResponse* response) const {
  QUERN_RETURN_IF_ERROR(CheckRequest(request, max_inputs_));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                         engine_->models().Get(request.model()));
  absl::Status first_error;
  bool has_success = false;
  for (int i = 0; i < request.inputs_size(); ++i) {
    QUERN_RETURN_IF_ERROR(context.Check("encode"));
    v1::EmbedResult& result = *response->add_results();
    const absl::StatusOr<Embedded> embedded =
        EmbedInput(context, *model, request.inputs(i));
    if (embedded.ok()) {
      has_success = true;
      EncodeResult(*embedded, &result);
      continue;
    }
    const absl::Status error =
        InField(embedded.status(), absl::StrCat("inputs[", i, "]"));
    *result.mutable_status() = ToRpcStatus(error);
    first_error.Update(error);
  }
  if (!has_success) return first_error;
  *response->mutable_model() = EncodeModelVersion(model->info());
  EncodeStages(context, response->mutable_stages());
  return absl::OkStatus();
}

absl::StatusOr<Embedded> EmbeddingService::EmbedInput(
    RequestContext& context, const Model& model, const v1::Input& input) const {
  switch (input.input_case()) {
    case v1::Input::kText:
      return engine_->EmbedText(context, model, input.text());
    case v1::Input::kImage: {
      QUERN_ASSIGN_OR_RETURN(const ImageInput image,
                             DecodeImage(input.image(), "image"));
      return engine_->EmbedImage(context, model, image.encoded);
    }
    case v1::Input::kVideo:
      return NotInThisVersion("video");
    case v1::Input::kAudio:
      return NotInThisVersion("audio");
    case v1::Input::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "is empty; give one of: text, image");
}

}  // namespace quern
