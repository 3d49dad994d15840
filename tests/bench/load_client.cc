#include "tests/bench/load_client.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/client_context.h"

#include "tests/bench/bench.h"

namespace quern {
namespace {

const double kNever = std::numeric_limits<double>::infinity();

bool HasRetryInfo(const grpc::Status& status) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return false;
  return std::any_of(rich.details().begin(), rich.details().end(),
                     [](const google::protobuf::Any& detail) {
                       return detail.Is<google::rpc::RetryInfo>();
                     });
}

bool BeginsWith(const grpc::ByteBuffer& answer, absl::string_view prefix) {
  std::vector<grpc::Slice> slices;
  if (!answer.Dump(&slices).ok()) return false;
  for (const grpc::Slice& slice : slices) {
    const size_t common = std::min(slice.size(), prefix.size());
    if (std::memcmp(slice.begin(), prefix.data(), common) != 0) return false;
    prefix.remove_prefix(common);
    if (prefix.empty()) break;
  }
  return prefix.empty();
}

std::vector<double> Milliseconds(const LoadReport& report,
                                 grpc::StatusCode code,
                                 double CallOutcome::*from) {
  std::vector<double> ms;
  for (const CallOutcome& call : report.calls) {
    if (call.code != code || call.due < report.begin || call.due > report.end) {
      continue;
    }
    ms.push_back(1e3 * (call.end - call.*from));
  }
  return ms;
}

// When calls are due.
class Schedule {
 public:
  explicit Schedule(const LoadOptions& options)
      : options_(options), random_(options.seed), distance_(options.rate) {
    if (options.in_flight == 0) next_ = distance_(random_);
  }

  // `in_flight` calls run. kNever: only once one of them has ended.
  double Next(double now, int64_t in_flight) const {
    if (options_.in_flight == 0) return next_;
    if (in_flight < options_.in_flight) return now;
    return kNever;
  }
  void Advance() {
    if (options_.in_flight == 0) next_ += distance_(random_);
  }

 private:
  const LoadOptions& options_;
  std::mt19937 random_;
  std::exponential_distribution<double> distance_;
  double next_ = 0;
};

// One stream, driven by the events of a queue that serves nothing else.
class StreamedCall {
 public:
  StreamedCall(grpc::GenericStub& stub, const std::string& method,
               const std::vector<grpc::ByteBuffer>& requests,
               grpc::CompletionQueue& queue)
      : requests_(requests),
        queue_(queue),
        start_(absl::Now()),
        stream_(stub.PrepareCall(&context_, method, &queue)) {}

  LoadReport Run() {
    LoadReport report;
    report.client_cpu_seconds = -CpuSeconds(getpid());
    Begin(Event::kStarted, [&](void* tag) { stream_->StartCall(tag); });
    while (pending_ > 0) {
      void* tag = nullptr;
      bool ok = false;
      queue_.Next(&tag, &ok);
      --pending_;
      Handle(static_cast<Event>(reinterpret_cast<intptr_t>(tag)), ok);
    }
    report.end = Now();
    report.client_cpu_seconds += CpuSeconds(getpid());
    // A stream that ends well has answered everything.
    const grpc::StatusCode code =
        status_.ok() ? grpc::StatusCode::UNKNOWN : status_.error_code();
    for (size_t i = calls_.size(); i < requests_.size(); ++i) {
      calls_.push_back({.end = report.end, .code = code});
    }
    report.calls = std::move(calls_);
    return report;
  }

 private:
  enum class Event : intptr_t { kStarted = 1, kWritten, kRead, kFinished };

  double Now() const { return absl::ToDoubleSeconds(absl::Now() - start_); }

  template <typename Operation>
  void Begin(Event event, const Operation& operation) {
    ++pending_;
    operation(reinterpret_cast<void*>(static_cast<intptr_t>(event)));
  }

  void Handle(Event event, bool ok) {
    switch (event) {
      case Event::kStarted:
        if (ok) Write();
        Read();
        break;
      case Event::kWritten:
        if (ok && sent_.size() < requests_.size()) {
          Write();
        } else if (ok && !is_closed_) {
          is_closed_ = true;
          Begin(event, [&](void* tag) { stream_->WritesDone(tag); });
        }
        break;
      case Event::kRead:
        if (ok) {
          const double sent = sent_[calls_.size()];
          calls_.push_back({.due = sent, .sent = sent, .end = Now()});
          Read();
        } else {
          Begin(Event::kFinished,
                [&](void* tag) { stream_->Finish(&status_, tag); });
        }
        break;
      case Event::kFinished:
        break;
    }
  }

  void Write() {
    const grpc::ByteBuffer& request = requests_[sent_.size()];
    sent_.push_back(Now());
    Begin(Event::kWritten, [&](void* tag) { stream_->Write(request, tag); });
  }

  void Read() {
    Begin(Event::kRead, [&](void* tag) { stream_->Read(&answer_, tag); });
  }

  const std::vector<grpc::ByteBuffer>& requests_;
  grpc::CompletionQueue& queue_;
  const absl::Time start_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::ByteBuffer answer_;
  grpc::Status status_;
  std::vector<double> sent_;  // When, of each request.
  std::vector<CallOutcome> calls_;
  bool is_closed_ = false;
  int pending_ = 0;  // Operations that have not come back.
};

}  // namespace

struct LoadClient::Call {
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer response;
  grpc::Status status;
  CallOutcome outcome;
};

double LoadReport::OkRate() const {
  const auto count =
      std::count_if(calls.begin(), calls.end(), [&](const CallOutcome& call) {
        return call.code == grpc::StatusCode::OK && call.end >= begin &&
               call.end <= end;
      });
  return static_cast<double>(count) / (end - begin);
}

std::vector<double> LoadReport::LatenciesMs(grpc::StatusCode code) const {
  return Milliseconds(*this, code, &CallOutcome::due);
}

std::vector<double> LoadReport::SentLatenciesMs(grpc::StatusCode code) const {
  return Milliseconds(*this, code, &CallOutcome::sent);
}

void LoadClient::Send(const grpc::ByteBuffer& request,
                      const LoadOptions& options, double due, double now) {
  auto* call = new Call;
  call->outcome = {.due = due, .sent = now};
  call->context.set_deadline(
      absl::ToChronoTime(absl::Now() + options.deadline));
  call->reader =
      stub_.PrepareUnaryCall(&call->context, method_, request, &queue_);
  call->reader->StartCall();
  call->reader->Finish(&call->response, &call->status, call);
}

LoadReport LoadClient::Stream(const std::vector<grpc::ByteBuffer>& requests) {
  return StreamedCall(stub_, method_, requests, queue_).Run();
}

LoadReport LoadClient::Run(const std::vector<grpc::ByteBuffer>& requests,
                           const LoadOptions& options) {
  LoadReport report;
  Schedule schedule(options);
  const absl::Time start = absl::Now();
  const auto now = [&] { return absl::ToDoubleSeconds(absl::Now() - start); };
  const auto read_cpu = [&](double sign) {
    if (options.server > 0) {
      report.server_cpu_seconds += sign * CpuSeconds(options.server);
    }
    report.client_cpu_seconds += sign * CpuSeconds(getpid());
  };
  int64_t sent = 0, in_flight = 0;
  bool has_begun = false, has_ended = false;
  const auto pass_edges = [&](double time, bool is_last) {
    if (!has_begun && time >= options.warm_up_seconds) {
      has_begun = true;
      report.begin = time;
      read_cpu(-1);
    }
    if (has_begun && !has_ended &&
        (is_last || time >= report.begin + options.seconds)) {
      has_ended = true;
      report.end = time;
      read_cpu(1);
    }
  };
  for (;;) {
    double time = now();
    pass_edges(time, /*is_last=*/false);
    double due = kNever;
    while (!has_ended && sent < options.max_calls) {
      due = schedule.Next(time, in_flight);
      if (due > time) break;
      Send(requests[next_request_++ % requests.size()], options, due, time);
      schedule.Advance();
      ++sent;
      ++in_flight;
      due = kNever;
      time = now();
    }
    if (in_flight == 0 && due == kNever) break;
    // Wakes for the next call, and for the edges of the time that counts.
    double wake = due;
    if (!has_begun) {
      wake = std::min(wake, options.warm_up_seconds);
    } else if (!has_ended) {
      wake = std::min(wake, report.begin + options.seconds);
    }
    void* tag = nullptr;
    bool ok = false;
    const absl::Time until =
        wake == kNever ? absl::InfiniteFuture() : start + absl::Seconds(wake);
    const auto event = queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(until));
    if (event != grpc::CompletionQueue::GOT_EVENT) continue;
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    --in_flight;
    call->outcome.end = now();
    call->outcome.code = call->status.error_code();
    call->outcome.has_retry_info = HasRetryInfo(call->status);
    if (call->status.ok() && !options.expected_prefix.empty() &&
        !BeginsWith(call->response, options.expected_prefix)) {
      call->outcome.code = grpc::StatusCode::UNKNOWN;
    }
    report.calls.push_back(call->outcome);
  }
  pass_edges(now(), /*is_last=*/true);
  return report;
}

}  // namespace quern
