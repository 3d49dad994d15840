// Calls one gRPC method of any server with ready-made messages, as fast as it
// answers, and prints what came of it as one line of JSON. The load generator
// of tests/bench/peers: the same cheap client for each server.
//
//   grpc_load --address HOST:PORT --method /PACKAGE.SERVICE/METHOD
//             --messages FILE [--in-flight N] [--seconds S] [--warm-up S]
//             [--once | --stream] [--expect-prefix HEX]

#include <limits>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

#include "tests/bench/load_client.h"
#include "tests/bench/load_tool.h"

namespace quern {
namespace {

std::vector<grpc::ByteBuffer> ToByteBuffers(
    const std::vector<std::string>& messages) {
  std::vector<grpc::ByteBuffer> buffers;
  buffers.reserve(messages.size());
  for (const std::string& message : messages) {
    const grpc::Slice slice(message);
    buffers.emplace_back(&slice, 1);
  }
  return buffers;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Calls one gRPC method with ready-made messages");
  std::string address, method, path, prefix;
  bool once = false, stream = false;
  quern::LoadOptions options{
      .in_flight = 32, .warm_up_seconds = 0.5, .seconds = 5};
  app.add_option("--address", address, "HOST:PORT")->required();
  app.add_option("--method", method, "/PACKAGE.SERVICE/METHOD")->required();
  app.add_option("--messages", path,
                 "File of messages, each after its length (32 bits, little "
                 "endian)")
      ->required();
  app.add_option("--in-flight", options.in_flight, "Calls at any time")
      ->check(CLI::Range(1, 100'000));
  app.add_option("--seconds", options.seconds, "What counts");
  app.add_option("--warm-up", options.warm_up_seconds, "Seconds before it");
  auto* const only_once =
      app.add_flag("--once", once, "Each message once; all of it counts");
  app.add_flag("--stream", stream,
               "Each message once, in one bidirectional stream that answers "
               "each in turn; all of it counts")
      ->excludes(only_once);
  app.add_option("--expect-prefix", prefix,
                 "Bytes in hexadecimal: an answer that begins otherwise has "
                 "failed, for servers that put their errors into answers");
  CLI11_PARSE(app, argc, argv);

  const std::vector<grpc::ByteBuffer> messages =
      quern::ToByteBuffers(quern::ReadMessages(path));
  options.expected_prefix = absl::HexStringToBytes(prefix);
  if (once) {
    options.warm_up_seconds = 0;
    options.seconds = std::numeric_limits<double>::infinity();
    options.max_calls = static_cast<int64_t>(messages.size());
  }
  quern::LoadClient client(
      grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), method);
  quern::PrintReport(stream ? client.Stream(messages)
                            : client.Run(messages, options));
}
