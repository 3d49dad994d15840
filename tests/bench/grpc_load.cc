// Calls one unary gRPC method of any server with ready-made messages, as fast
// as it answers, and prints what came of it as one line of JSON. The load
// generator of tests/bench/peers: the same cheap client for each server.
//
//   grpc_load --address HOST:PORT --method /PACKAGE.SERVICE/METHOD
//             --messages FILE [--in-flight N] [--seconds S] [--warm-up S]

#include <cstdint>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "nlohmann/json.hpp"

#include "engine/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/load_client.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

// Serialised messages, each after its length as 32 bits, least byte first.
std::vector<grpc::ByteBuffer> ReadMessages(const std::string& path) {
  const std::string bytes = ValueOrDie(ReadFile(path));
  std::vector<grpc::ByteBuffer> messages;
  for (size_t at = 0; at + 4 <= bytes.size();) {
    uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, 4);
    const grpc::Slice slice(bytes.substr(at + 4, length));
    messages.emplace_back(&slice, 1);
    at += 4 + length;
  }
  if (messages.empty()) {
    std::cerr << path << " holds no message\n";
    std::exit(1);
  }
  return messages;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Calls one unary gRPC method with ready-made messages");
  std::string address, method, messages;
  quern::LoadOptions options{
      .in_flight = 32, .warm_up_seconds = 0.5, .seconds = 5};
  app.add_option("--address", address, "HOST:PORT")->required();
  app.add_option("--method", method, "/PACKAGE.SERVICE/METHOD")->required();
  app.add_option("--messages", messages,
                 "File of messages, each after its length (32 bits, little "
                 "endian)")
      ->required();
  app.add_option("--in-flight", options.in_flight, "Calls at any time")
      ->check(CLI::Range(1, 100'000));
  app.add_option("--seconds", options.seconds, "What counts");
  app.add_option("--warm-up", options.warm_up_seconds, "Seconds before it");
  CLI11_PARSE(app, argc, argv);

  quern::LoadClient client(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), method);
  const quern::LoadReport report =
      client.Run(quern::ReadMessages(messages), options);
  const std::vector<double> ms = report.LatenciesMs(grpc::StatusCode::OK);
  int64_t failed = 0;
  for (const quern::CallOutcome& call : report.calls) {
    failed += call.code != grpc::StatusCode::OK;
  }
  std::cout << nlohmann::json{{"calls", report.calls.size()},
                              {"failed", failed},
                              {"calls_per_second", report.OkRate()},
                              {"p50_ms", quern::Quantile(ms, 0.5)},
                              {"p99_ms", quern::Quantile(ms, 0.99)},
                              {"client_cpu_ms",
                               1e3 * report.client_cpu_seconds /
                                   (report.OkRate() *
                                    (report.end - report.begin))}}
            << "\n";
}
