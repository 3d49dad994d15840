#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

#include "engine/query/engine.h"
#include "quern/v1/embedding.pb.h"
#include "server/stream_call.h"

namespace quern {

// One call of Embedding.EmbedStream: inputs are embedded side by side and
// answered in their order.
class EmbedStreamCall final : public StreamCall {
 public:
  // `environment`, `engine` and `method` must outlive the call.
  static StreamCall* Start(const RpcEnvironment& environment,
                           const std::string& method,
                           grpc::CallbackServerContext* server_context,
                           const Engine* engine, int64_t window);

 private:
  struct Outcome {
    v1::EmbedStreamResponse response;
    std::vector<StageTime> stages;
  };

  EmbedStreamCall(const RpcEnvironment& environment, const std::string& method,
                  grpc::CallbackServerContext* server_context,
                  const Engine* engine, int64_t window);

  absl::Status OnMessage(grpc::ByteBuffer message) override;
  // Reads what the first message says of all.
  absl::Status Open(const v1::EmbedStreamRequest& first);
  void Embed(int64_t index,
             const std::shared_ptr<const v1::EmbedStreamRequest>& request);
  void Finish(int64_t index, absl::StatusOr<Embedded> result);

  const Engine* const engine_;
  // Set by the first message; null before.
  std::shared_ptr<const Model> model_;
  EmbedOptions options_;
  int64_t next_index_ = 0;

  absl::Mutex line_mutex_;
  int64_t next_answer_ ABSL_GUARDED_BY(line_mutex_) = 0;
  std::map<int64_t, Outcome> line_ ABSL_GUARDED_BY(line_mutex_);
};

}  // namespace quern
