#include "server/rpc_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "grpcpp/impl/rpc_service_method.h"

#include "engine/base/error.h"

namespace quern {
namespace {

// Of a request that is worth no thread of its own: an embedding of 4,096
// numbers and a filter, but no picture.
constexpr size_t kMaxSmallRequest = 32 * 1024;

absl::Status NotAvailable(const std::string& method) {
  return absl::UnimplementedError(
      absl::StrCat(method, " is not available in this version"));
}

// Ends a stream as soon as it has begun.
class RefusedStream final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  RefusedStream(const RpcEnvironment& environment, const std::string& method,
                grpc::CallbackServerContext* server_context)
      : scope_(environment, method, server_context) {
    Finish(scope_.End(NotAvailable(method)));
  }

  void OnDone() override { delete this; }

 private:
  CallScope scope_;
};

}  // namespace

// One unary call. It owns itself: gRPC's OnDone() is the last that happens.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(const RpcEnvironment& environment, const RpcService::Method& method,
            grpc::CallbackServerContext* server_context,
            const grpc::ByteBuffer& request, grpc::ByteBuffer* response)
      : environment_(environment),
        method_(method),
        server_context_(server_context),
        scope_(environment, method.name, server_context),
        request_(request),
        response_(response) {
    if (request_.Valid()) {
      scope_.AddReceivedBytes(static_cast<int64_t>(request_.Length()));
    }
  }

  void Start() {
    // gRPC calls OnCancel() only after this function has returned, and when an
    // executor of its own comes to it.
    scope_.context().AskCaller(
        [this] { return server_context_->IsCancelled(); });
    absl::Status status = scope_.admission();
    if (status.ok() && StaysOnThread()) {
      // Run() may end this call and, with it, the server.
      const std::shared_ptr<CallSlots> slots = environment_.slots;
      Run();
      return slots->Return();
    }
    if (status.ok()) {
      status = environment_.pool->Submit([this] { Run(); });
    }
    if (!status.ok()) Finish(scope_.End(std::move(status)));
  }

  void OnCancel() override { scope_.context().Cancel(); }
  void OnDone() override { delete this; }

 private:
  // Takes a slot if so.
  bool StaysOnThread() const {
    return method_.stays_on_thread && request_.Valid() &&
           request_.Length() <= kMaxSmallRequest &&
           environment_.pool->queued() == 0 && environment_.slots->TryTake();
  }

  void Run() {
    scope_.context().AddStageTime("queue",
                                  environment_.clock->Now() - scope_.arrival());
    absl::Status status = scope_.context().Check("work began");
    if (!status.ok()) return Answer(std::move(status));
    method_.unary(scope_.context(), request_, arena_, &message_,
                  [this](absl::Status status) { Answer(std::move(status)); });
  }

  void Answer(absl::Status status) {
    if (status.ok()) status = Serialize();
    Finish(scope_.End(std::move(status)));
  }

  absl::Status Serialize() {
    QUERN_RETURN_IF_ERROR(
        SerializeMessage(*message_, environment_.max_message_bytes, response_));
    scope_.AddSentBytes(static_cast<int64_t>(response_->Length()));
    return absl::OkStatus();
  }

  const RpcEnvironment& environment_;
  const RpcService::Method& method_;
  grpc::CallbackServerContext* const server_context_;
  CallScope scope_;
  grpc::ByteBuffer request_;  // Shares the bytes with gRPC's.
  google::protobuf::Arena arena_;
  google::protobuf::Message* message_ = nullptr;  // The response, on `arena_`.
  grpc::ByteBuffer* const response_;
};

RpcService::RpcService(const google::protobuf::ServiceDescriptor* descriptor,
                       const RpcEnvironment* environment)
    : descriptor_(descriptor), environment_(environment) {
  methods_.resize(descriptor->method_count());
  for (int i = 0; i < descriptor->method_count(); ++i) {
    Method& method = methods_[i];
    method.name = absl::StrCat(descriptor->full_name(), "/",
                               descriptor->method(i)->name());
    method.path = absl::StrCat("/", method.name);
    method.unary = [&method](RequestContext&, grpc::ByteBuffer&,
                             google::protobuf::Arena&,
                             google::protobuf::Message**, const Done& done) {
      done(NotAvailable(method.name));
    };
    method.stream = [environment](const std::string& name,
                                  grpc::CallbackServerContext* context) {
      return new RefusedStream(*environment, name, context);
    };
    Register(i);
  }
}

void RpcService::Register(int index) {
  using grpc::internal::RpcMethod;
  const auto& descriptor = *descriptor_->method(index);
  const Method& method = methods_[index];
  // On the wire every kind of stream is a bidirectional one.
  const bool is_unary =
      !descriptor.client_streaming() && !descriptor.server_streaming();
  AddMethod(new grpc::internal::RpcServiceMethod(
      method.path.c_str(),
      is_unary ? RpcMethod::NORMAL_RPC : RpcMethod::BIDI_STREAMING, nullptr));
  if (is_unary) {
    MarkMethodRawCallback(
        index, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer,
                                                        grpc::ByteBuffer>(
                   [this, &method](grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) {
                     auto* call = new UnaryCall(*environment_, method, context,
                                                *request, response);
                     call->Start();
                     return call;
                   }));
  } else {
    MarkMethodRawCallback(
        index, new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer,
                                                       grpc::ByteBuffer>(
                   [&method](grpc::CallbackServerContext* context) {
                     return method.stream(method.name, context);
                   }));
  }
}

RpcService::Method& RpcService::Find(absl::string_view method) {
  // An unknown name is a mistake in this program: it ends in the null.
  return methods_[descriptor_->FindMethodByName(std::string(method))->index()];
}

void RpcService::SetUnary(absl::string_view method, UnaryHandler handler) {
  Find(method).unary = std::move(handler);
}

void RpcService::HandleStream(absl::string_view method, StreamFactory factory) {
  Find(method).stream = std::move(factory);
}

absl::Status SerializeMessage(const google::protobuf::Message& message,
                              int64_t max_bytes, grpc::ByteBuffer* bytes) {
  const auto size = static_cast<int64_t>(message.ByteSizeLong());
  if (size > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the response has ", size, " bytes; server.max_message_bytes is ",
        max_bytes, ": ask for fewer results or fields"));
  }
  bool owns = false;
  const grpc::Status status =
      grpc::SerializationTraits<google::protobuf::Message>::Serialize(
          message, bytes, &owns);
  return status.ok() ? absl::OkStatus()
                     : absl::InternalError(status.error_message());
}

}  // namespace quern
