#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/query/engine.h"
#include "engine/query/upsert_session.h"
#include "quern/v1/items.pb.h"
#include "server/stream_call.h"

namespace quern {

// One call of Items.Upsert: an UpsertSession fed by a stream.
class UpsertCall final : public StreamCall {
 public:
  // `environment`, `engine` and `method` must outlive the call.
  static StreamCall* Start(const RpcEnvironment& environment,
                           const std::string& method,
                           grpc::CallbackServerContext* server_context,
                           const Engine* engine, int64_t window);

 private:
  UpsertCall(const RpcEnvironment& environment, const std::string& method,
             grpc::CallbackServerContext* server_context, const Engine* engine,
             int64_t window);

  absl::Status OnMessage(grpc::ByteBuffer message) override;
  // Opens the session of the collection that the first message names.
  absl::Status Open(const v1::UpsertRequest& first);
  void OnResults(const std::vector<UpsertResult>& results);

  const Engine* const engine_;
  std::string collection_;
  std::shared_ptr<UpsertSession> session_;  // Null before the first message.
};

}  // namespace quern
