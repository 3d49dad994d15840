// Sends ready-made requests to a server of Redis's or PostgreSQL's protocol, as
// fast as it answers, and prints what came of it as one line of JSON, like
// grpc_load: bytes go out as they are, answers are only measured for their end
// and looked at for errors. A connection and a thread for each request under
// way.
//
//   tcp_load --address HOST:PORT --protocol redis|postgresql --messages FILE
//            [--setup FILE] [--in-flight N] [--seconds S] [--warm-up S]
//            [--once]

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"
#include "tests/bench/load_client.h"
#include "tests/bench/load_tool.h"
#include "tests/bench/reply.h"

namespace quern {
namespace {

struct Options {
  std::string address;
  std::string protocol;
  std::string messages;
  std::string setup;
  int in_flight = 32;
  double seconds = 5;
  double warm_up_seconds = 0.5;
  bool once = false;

  bool is_redis() const { return protocol == "redis"; }
};

struct Request {
  std::string bytes;
  size_t replies = 1;  // Of Redis.
};

std::vector<Request> ReadRequests(const std::string& path, bool is_redis) {
  std::vector<Request> requests;
  for (std::string& bytes : ReadMessages(path)) {
    const size_t replies = is_redis ? CountRedisValues(bytes) : 1;
    requests.push_back({std::move(bytes), replies});
  }
  return requests;
}

// A blocking socket. Not thread-safe.
class Connection {
 public:
  // Not to be had is the end of the program.
  explicit Connection(const Options& options) : is_redis_(options.is_redis()) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(options.address, absl::MaxSplits(':', 1));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    int port = 0;
    const bool is_address =
        absl::SimpleAtoi(parts.second, &port) &&
        inet_pton(AF_INET, parts.first.c_str(), &address.sin_addr) == 1;
    address.sin_port = htons(static_cast<uint16_t>(port));
    socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int yes = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (is_address && connect(socket_, reinterpret_cast<sockaddr*>(&address),
                              sizeof address) == 0) {
      return;
    }
    std::cerr << "cannot connect to " << options.address << "\n";
    std::exit(1);
  }
  ~Connection() { close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Whether a reply without an error came. If none came at all, the connection
  // is closed.
  bool Call(const Request& request) {
    if (!Send(request.bytes)) return false;
    for (;;) {
      const absl::string_view bytes(received_.data(), received_size_);
      const std::optional<Reply> reply =
          is_redis_ ? FindRedisReply(bytes, request.replies)
                    : FindPostgresReply(bytes);
      if (reply.has_value()) {
        // Nothing was asked for behind it.
        received_size_ = 0;
        return !reply->failed;
      }
      if (!Receive()) return false;
    }
  }

  bool is_open() const { return is_open_; }

 private:
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent =
          send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return is_open_ = false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  bool Receive() {
    constexpr size_t kRoom = 16 << 10;
    if (received_.size() < received_size_ + kRoom) {
      received_.resize(2 * received_.size() + kRoom);
    }
    ssize_t size = 0;
    do {
      size = recv(socket_, received_.data() + received_size_,
                  received_.size() - received_size_, 0);
    } while (size < 0 && errno == EINTR);
    if (size <= 0) return is_open_ = false;
    received_size_ += static_cast<size_t>(size);
    return true;
  }

  const bool is_redis_;
  int socket_ = -1;
  bool is_open_ = true;
  std::string received_;
  size_t received_size_ = 0;  // Of `received_`; the rest is room.
};

class Load {
 public:
  explicit Load(const Options& options)
      : options_(options),
        requests_(ReadRequests(options.messages, options.is_redis())),
        outcomes_(options.in_flight) {
    std::vector<Request> setup;
    if (!options.setup.empty()) {
      setup = ReadRequests(options.setup, options.is_redis());
    }
    for (int i = 0; i < options.in_flight; ++i) {
      connections_.push_back(std::make_unique<Connection>(options));
      for (const Request& request : setup) {
        if (connections_.back()->Call(request)) continue;
        std::cerr << "the server refused what --setup sends\n";
        std::exit(1);
      }
    }
  }

  LoadReport Run() {
    LoadReport report;
    start_ = absl::Now();
    std::vector<std::thread> threads;
    if (options_.once) report.client_cpu_seconds = -CpuSeconds(getpid());
    for (int i = 0; i < options_.in_flight; ++i) {
      threads.emplace_back([this, i] { Work(*connections_[i], outcomes_[i]); });
    }
    if (!options_.once) {
      report.begin = WaitUntil(options_.warm_up_seconds);
      report.client_cpu_seconds = -CpuSeconds(getpid());
      report.end = WaitUntil(report.begin + options_.seconds);
      report.client_cpu_seconds += CpuSeconds(getpid());
      has_ended_ = true;
    }
    for (std::thread& thread : threads) thread.join();
    if (options_.once) {
      report.end = Now();
      report.client_cpu_seconds += CpuSeconds(getpid());
    }
    for (const std::vector<CallOutcome>& calls : outcomes_) {
      report.calls.insert(report.calls.end(), calls.begin(), calls.end());
    }
    return report;
  }

 private:
  double Now() const { return absl::ToDoubleSeconds(absl::Now() - start_); }

  double WaitUntil(double seconds) const {
    absl::SleepFor(absl::Seconds(seconds - Now()));
    return Now();
  }

  void Work(Connection& connection, std::vector<CallOutcome>& calls) {
    while (!has_ended_ && connection.is_open()) {
      const size_t number = next_++;
      if (options_.once && number >= requests_.size()) return;
      CallOutcome call;
      call.due = call.sent = Now();
      if (!connection.Call(requests_[number % requests_.size()])) {
        call.code = grpc::StatusCode::UNKNOWN;
      }
      call.end = Now();
      calls.push_back(call);
    }
  }

  const Options options_;
  const std::vector<Request> requests_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::vector<CallOutcome>> outcomes_;  // Of each connection.
  absl::Time start_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> has_ended_ = false;
};

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Sends ready-made requests to Redis or PostgreSQL");
  quern::Options options;
  app.add_option("--address", options.address, "IPv4:PORT")->required();
  app.add_option("--protocol", options.protocol, "How replies end")
      ->required()
      ->check(CLI::IsMember({"redis", "postgresql"}));
  app.add_option("--messages", options.messages,
                 "File of requests, each after its length (32 bits, little "
                 "endian); one of Redis may be several commands")
      ->required();
  app.add_option("--setup", options.setup,
                 "File of requests that each connection begins with");
  app.add_option("--in-flight", options.in_flight, "Connections")
      ->check(CLI::Range(1, 10'000));
  app.add_option("--seconds", options.seconds, "What counts");
  app.add_option("--warm-up", options.warm_up_seconds, "Seconds before it");
  app.add_flag("--once", options.once, "Each request once; all of it counts");
  CLI11_PARSE(app, argc, argv);
  quern::PrintReport(quern::Load(options).Run());
}
