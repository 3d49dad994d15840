#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"

#include "engine/base/clock.h"
#include "engine/base/request_context.h"
#include "engine/base/thread_pool.h"
#include "server/active_calls.h"
#include "server/call_slots.h"
#include "server/metrics.h"

namespace quern {

// What every call needs of its server. All must outlive the calls.
struct RpcEnvironment {
  const Clock* clock = nullptr;
  ThreadPool* pool = nullptr;
  ThreadPool* streams = nullptr;  // For what streams bring: bulk work.
  std::shared_ptr<CallSlots> slots;
  Metrics* metrics = nullptr;
  ActiveCalls* calls = nullptr;
  int64_t max_message_bytes = 0;
  // How long a caller may keep the stream of a snapshot standing still.
  absl::Duration stall_timeout = absl::Minutes(1);
};

// One call from its arrival to its answer, unary or stream: its context, and
// what is logged and measured of it. Lives until gRPC is done with the call,
// and logs and measures it then, so that no caller waits for that. Only
// context().Cancel() is thread-safe.
class CallScope {
 public:
  // Takes the request id of the caller's `x-request-id`, if it is 1 to 128
  // printable bytes, or makes one, and sends it with the answer's metadata.
  // `method` ("quern.v1.Retrieval/Search") must outlive the scope.
  CallScope(const RpcEnvironment& environment, const std::string& method,
            grpc::CallbackServerContext* server_context,
            Lane lane = Lane::kInteractive);
  ~CallScope();

  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // Not OK when the server takes no more calls: end this one with it.
  const absl::Status& admission() const { return admission_; }

  RequestContext& context() { return context_; }
  absl::Time arrival() const { return arrival_; }
  void AddReceivedBytes(int64_t bytes) { received_bytes_ += bytes; }
  void AddSentBytes(int64_t bytes) { sent_bytes_ += bytes; }

  // The call's work is done: gives what to finish it with. Called once.
  grpc::Status End(absl::Status status);

 private:
  void Measure() const;
  void WriteLog() const;

  const RpcEnvironment& environment_;
  const std::string& method_;
  const std::string peer_;
  const absl::Time arrival_;
  RequestContext context_;
  const absl::Status admission_;
  int64_t received_bytes_ = 0;
  int64_t sent_bytes_ = 0;
  // Given by End().
  absl::Status status_;
  absl::Duration duration_;
};

}  // namespace quern
