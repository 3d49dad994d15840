#include "server/embedding_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "server/codec.h"
#include "server/embed_stream_call.h"
#include "server/grpc_status.h"

namespace quern {
namespace {

// One call of Embed, from its decoded inputs to its response.
struct EmbedCall {
  std::shared_ptr<const Model> model;
  EmbedOptions options;
  std::vector<EmbedInput> inputs;    // Those that could be decoded,
  std::vector<int> index;            // and which of the request's each is.
  std::vector<absl::Status> errors;  // One per input of the request.
};

absl::StatusOr<EmbedCall> DecodeCall(const v1::EmbedRequest& request,
                                     const Engine& engine, int64_t max_inputs) {
  if (request.inputs_size() < 1 || request.inputs_size() > max_inputs) {
    return InvalidField("inputs",
                        absl::StrCat("there are ", request.inputs_size(),
                                     "; give 1 to ", max_inputs));
  }
  EmbedCall call;
  QUERN_ASSIGN_OR_RETURN(call.options, DecodeEmbedOptions(request));
  QUERN_ASSIGN_OR_RETURN(call.model, engine.models().Get(request.model()));
  call.errors.resize(request.inputs_size());
  for (int i = 0; i < request.inputs_size(); ++i) {
    absl::StatusOr<EmbedInput> input = DecodeInput(request.inputs(i));
    if (input.ok()) {
      call.inputs.push_back(*std::move(input));
      call.index.push_back(i);
    } else {
      call.errors[i] = input.status();
    }
  }
  return call;
}

// Fails when no input succeeded, with the first input's error.
absl::Status EncodeCall(EmbedCall& call,
                        const std::vector<absl::StatusOr<Embedded>>& results,
                        RequestContext& context, v1::EmbedResponse* response) {
  bool has_success = false;
  for (size_t i = 0; i < call.errors.size(); ++i) response->add_results();
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].ok()) {
      call.errors[call.index[i]] = results[i].status();
      continue;
    }
    has_success = true;
    EncodeEmbedded(*results[i], call.options, call.model->info().dimension,
                   response->mutable_results(call.index[i]));
    for (const StageTime& stage : results[i]->stages) {
      context.AddStageTime(stage.stage, stage.duration);
    }
  }
  absl::Status first_error;
  for (size_t i = 0; i < call.errors.size(); ++i) {
    if (call.errors[i].ok()) continue;
    const absl::Status error =
        InField(call.errors[i], absl::StrCat("inputs[", i, "]"));
    *response->mutable_results(static_cast<int>(i))->mutable_status() =
        ToRpcStatus(error);
    first_error.Update(error);
  }
  if (!has_success) return first_error;
  *response->mutable_model() = EncodeModelVersion(call.model->info());
  EncodeStages(context, response->mutable_stages());
  return absl::OkStatus();
}

}  // namespace

EmbeddingService::EmbeddingService(const RpcEnvironment* environment,
                                   const Engine* engine, int64_t max_inputs,
                                   int64_t stream_window)
    : RpcService(v1::EmbedRequest::descriptor()->file()->FindServiceByName(
                     "Embedding"),
                 environment),
      engine_(engine),
      max_inputs_(max_inputs) {
  Handle("Embed", this, &EmbeddingService::Embed);
  HandleStream("EmbedStream", [environment, engine, stream_window](
                                  const std::string& method,
                                  grpc::CallbackServerContext* server_context) {
    return EmbedStreamCall::Start(*environment, method, server_context, engine,
                                  stream_window);
  });
}

void EmbeddingService::Embed(RequestContext& context,
                             const v1::EmbedRequest& request,
                             v1::EmbedResponse* response, Done done) const {
  absl::StatusOr<EmbedCall> decoded =
      DecodeCall(request, *engine_, max_inputs_);
  if (!decoded.ok()) return done(decoded.status());
  const auto call = std::make_shared<EmbedCall>(*std::move(decoded));
  engine_->embedder().Embed(
      context, call->model, call->inputs, call->options,
      [&context, response, call, done = std::move(done)](
          const std::vector<absl::StatusOr<Embedded>>& results) {
        done(EncodeCall(*call, results, context, response));
      });
}

}  // namespace quern
