#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/arena.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

#include "engine/base/status_macros.h"
#include "server/call_scope.h"
#include "server/parse_message.h"

namespace quern {

// A gRPC service made from its descriptor. Methods get the message's bytes: a
// generated handler would answer a request that does not parse with
// UNIMPLEMENTED and no reason. A method without a handler answers UNIMPLEMENTED
// with its name.
//
// Life of a unary call: arrival (gRPC's thread) -> a place in the pool's queue
// -> parse, handler (the pool's thread) -> serialise, answer (there, or where
// an asynchronous handler ends) -> log, metrics. See StayOnThread() for those
// that skip the queue.
//
// Handlers are set before the service is registered and called from many
// threads at once.
class RpcService : public grpc::Service {
 public:
  // `environment` must outlive the service.
  RpcService(const google::protobuf::ServiceDescriptor* descriptor,
             const RpcEnvironment* environment);

  // "quern.v1.Retrieval"
  const std::string& full_name() const { return descriptor_->full_name(); }

 protected:
  using BidiReactor =
      grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  // Makes the reactor of one stream, which deletes itself when it is done.
  using StreamFactory = std::function<BidiReactor*(
      const std::string& method, grpc::CallbackServerContext*)>;

  // Ends a call: called once, from any thread.
  using Done = std::function<void(absl::Status)>;

  // `handler` is a method of `service`, a class derived from this one.
  template <typename Service, typename Request, typename Response>
  void Handle(absl::string_view method, const Service* service,
              absl::Status (Service::*handler)(RequestContext&, const Request&,
                                               Response*) const) {
    SetHandler<Request, Response>(
        method,
        [service, handler](RequestContext& context, const Request& request,
                           Response* response, const Done& done) {
          done((service->*handler)(context, request, response));
        });
  }

  // Likewise, for a handler that may end after it has returned; its request and
  // response live until then.
  template <typename Service, typename Request, typename Response>
  void Handle(absl::string_view method, const Service* service,
              void (Service::*handler)(RequestContext&, const Request&,
                                       Response*, Done) const) {
    SetHandler<Request, Response>(
        method,
        [service, handler](RequestContext& context, const Request& request,
                           Response* response, Done done) {
          (service->*handler)(context, request, response, std::move(done));
        });
  }

  void HandleStream(absl::string_view method, StreamFactory factory);

  // While nothing waits for the pool, small requests of the method run on the
  // thread that gRPC brings them on, one of them less than gRPC has threads:
  // to wake another thread takes longer than a search of a small index. For
  // handlers that compute, and wait for no disk's sync and no other server.
  void StayOnThread(absl::string_view method) {
    Find(method).stays_on_thread = true;
  }

  const RpcEnvironment& environment() const { return *environment_; }

 private:
  friend class UnaryCall;
  // `*response` lives on the arena.
  using UnaryHandler =
      std::function<void(RequestContext&, grpc::ByteBuffer& request,
                         google::protobuf::Arena& arena,
                         google::protobuf::Message** response, Done)>;

  struct Method {
    std::string name;  // "quern.v1.Retrieval/Search"
    std::string path;  // "/quern.v1.Retrieval/Search"
    UnaryHandler unary;
    StreamFactory stream;
    bool stays_on_thread = false;
  };

  template <typename Request, typename Response, typename Handler>
  void SetHandler(absl::string_view method, Handler handler) {
    SetUnary(method, [handler = std::move(handler)](
                         RequestContext& context, grpc::ByteBuffer& bytes,
                         google::protobuf::Arena& arena,
                         google::protobuf::Message** response, Done done) {
      auto* request = google::protobuf::Arena::CreateMessage<Request>(&arena);
      absl::Status status = ParseMessage(bytes, *request);
      if (!status.ok()) return done(std::move(status));
      auto* answer = google::protobuf::Arena::CreateMessage<Response>(&arena);
      *response = answer;
      handler(context, *request, answer, std::move(done));
    });
  }
  void SetUnary(absl::string_view method, UnaryHandler handler);
  Method& Find(absl::string_view method);
  void Register(int index);

  const google::protobuf::ServiceDescriptor* const descriptor_;
  const RpcEnvironment* const environment_;
  std::vector<Method> methods_;  // In the descriptor's order; never resized.
};

// `message` as what gRPC sends. Errors: kResourceExhausted when it is longer
// than `max_bytes`.
absl::Status SerializeMessage(const google::protobuf::Message& message,
                              int64_t max_bytes, grpc::ByteBuffer* bytes);

}  // namespace quern
