#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

#include "server/call_scope.h"

namespace quern {

// A bidirectional call that answers each message with one message.
//
// At most `window` messages are under way: read, but their answers not yet
// written. A message that CountBySize() says to be light counts as a part of
// one. A caller that does not read its answers is read from no further.
// The call ends when the caller has sent all and every answer is written, or,
// after an error, when what was under way has been answered.
//
// Owns itself until gRPC is done with it. Thread-safe.
class StreamCall
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<StreamCall> {
 public:
  // Begins to read. `call` was made by a derived class's constructor alone.
  static StreamCall* Start(std::shared_ptr<StreamCall> call);

  void OnReadDone(bool ok) final;
  void OnWriteDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

 protected:
  StreamCall(const RpcEnvironment& environment, const std::string& method,
             grpc::CallbackServerContext* server_context, int64_t window);

  // One message, one call at a time, on gRPC's thread. On OK the message gets
  // its answer through Answer(), now or later; an error ends the call, and the
  // message needs no answer.
  virtual absl::Status OnMessage(grpc::ByteBuffer message) = 0;

  // Of OnMessage(), before anything can answer the message: little is kept or
  // worked on for it, so that it counts by its size, up to kWeightBytes of
  // which are one message of the window, and kLightestBytes the least that
  // counts.
  static constexpr int64_t kWeightBytes = 128 << 10;
  static constexpr int64_t kLightestBytes = 4 << 10;
  void CountBySize(int64_t bytes);

  // Answers the next messages in order, one each.
  void Answer(const std::vector<const google::protobuf::Message*>& answers,
              const std::vector<StageTime>& stages);

  const RpcEnvironment& environment() const { return environment_; }
  // Valid until the last message under way was answered.
  RequestContext* context() { return context_; }

 private:
  // Does whatever can be done next.
  void Step() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Outgoing {
    grpc::ByteBuffer bytes;
    int64_t weight = 0;  // Of the message that it answers.
  };

  const RpcEnvironment& environment_;
  const int64_t window_;  // In units of weights, which are like bytes.
  std::shared_ptr<StreamCall> self_;  // Dropped by OnDone().
  RequestContext* context_ = nullptr;

  absl::Mutex mutex_;
  CallScope scope_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool sent_first_ ABSL_GUARDED_BY(mutex_) = false;  // Or began to.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  // Of everything that is under way, together.
  int64_t weight_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<int64_t> unanswered_ ABSL_GUARDED_BY(mutex_);  // Weights.
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  // Answers that wait for the one being written, which is `written_`.
  std::deque<Outgoing> answers_ ABSL_GUARDED_BY(mutex_);
  Outgoing written_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer read_;  // gRPC's between StartRead() and OnReadDone().
};

}  // namespace quern
