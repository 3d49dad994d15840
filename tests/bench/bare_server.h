#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace quern {

// The least that a server can do: runs `work` for each call, whatever it asks,
// and sends the answer it was given.
class BareServer {
 public:
  explicit BareServer(std::function<void()> work) : service_(std::move(work)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_),
                                   grpc::InsecureChannelCredentials());
  }
  ~BareServer() { server_->Shutdown(); }

  int port() const { return port_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Not while a call is under way.
  void SetAnswer(const std::string& response) {
    const grpc::Slice bytes(response);
    service_.response = grpc::ByteBuffer(&bytes, 1);
  }

 private:
  struct Service final : grpc::CallbackGenericService {
    explicit Service(std::function<void()> of_call)
        : work(std::move(of_call)) {}
    grpc::ServerGenericBidiReactor* CreateReactor(
        grpc::GenericCallbackServerContext* /*context*/) override {
      return new Call(*this);
    }
    const std::function<void()> work;
    grpc::ByteBuffer response;
  };

  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Call(const Service& service) : service_(service) {
      StartRead(&request_);
    }
    void OnReadDone(bool /*ok*/) override {
      service_.work();
      StartWriteAndFinish(&service_.response, {}, grpc::Status::OK);
    }
    void OnDone() override { delete this; }

   private:
    const Service& service_;
    grpc::ByteBuffer request_;
  };

  Service service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace quern
