#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"
#include <sys/types.h>

namespace quern {

// How a method is called.
struct LoadOptions {
  // Closed loop: so many calls at any time. 0: open loop at `rate`.
  int in_flight = 0;
  // Open loop: calls a second, of exponential distances drawn from `seed`.
  double rate = 0;
  uint32_t seed = 1;
  // What counts is `seconds` long and begins after `warm_up_seconds`.
  double warm_up_seconds = 0;
  double seconds = std::numeric_limits<double>::infinity();
  // No more calls than this.
  int64_t max_calls = std::numeric_limits<int64_t>::max();
  // Of each call, from when it is sent.
  absl::Duration deadline = absl::Seconds(60);
  // Whose processor time is taken over the time that counts; 0: nobody's.
  pid_t server = 0;
  // An answer that begins otherwise counts as UNKNOWN: some servers put their
  // errors into answers.
  std::string expected_prefix;
};

// One call. Times are in seconds since the load began.
struct CallOutcome {
  double due = 0;  // When it should have been sent.
  double sent = 0;
  double end = 0;
  grpc::StatusCode code = grpc::StatusCode::OK;
  bool has_retry_info = false;
};

struct LoadReport {
  std::vector<CallOutcome> calls;  // In the order of their ends.
  double begin = 0;                // Of the time that counts.
  double end = 0;
  double server_cpu_seconds = 0;
  double client_cpu_seconds = 0;

  // Successful calls a second that ended in the time that counts.
  double OkRate() const;
  // Milliseconds of the calls that were due in the time that counts and ended
  // with `code`, from when they were due.
  std::vector<double> LatenciesMs(grpc::StatusCode code) const;
  // The same from when they were sent: without the delay of a late client.
  std::vector<double> SentLatenciesMs(grpc::StatusCode code) const;
};

// Calls one method with ready-made messages and looks at statuses only:
// one thread, a fifth of a millisecond of processor time a call, since the
// server has to share the machine with it. Not thread-safe.
class LoadClient {
 public:
  LoadClient(const std::shared_ptr<grpc::Channel>& channel, std::string method)
      : method_(std::move(method)), stub_(channel) {}

  // Sends `requests` in turn, over and over; returns once every call has ended.
  LoadReport Run(const std::vector<grpc::ByteBuffer>& requests,
                 const LoadOptions& options);

  // Sends each of `requests` once in one stream of a bidirectional method that
  // answers each in turn. All of it counts; what was not answered ends with the
  // stream's status, which then is not OK.
  LoadReport Stream(const std::vector<grpc::ByteBuffer>& requests);

 private:
  struct Call;

  void Send(const grpc::ByteBuffer& request, const LoadOptions& options,
            double due, double now);

  const std::string method_;  // "/quern.v1.Embedding/Embed"
  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  size_t next_request_ = 0;
};

}  // namespace quern
