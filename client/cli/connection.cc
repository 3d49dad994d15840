#include "client/cli/connection.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include <unistd.h>

#include "client/cli/failure.h"

namespace quern::cli {
namespace {

constexpr char kDefaultAddress[] = "127.0.0.1:7070";

absl::StatusOr<std::unique_ptr<LocalServer>> StartLocalServer(
    const ConnectionOptions& options, const Console& console) {
  absl::StatusOr<std::filesystem::path> binary = FindServerBinary(console);
  if (!binary.ok()) return binary.status();
  LocalServerOptions server_options;
  server_options.binary = *std::move(binary);
  server_options.data_folder = options.data_folder;
  server_options.settings = options.server_settings;
  server_options.interrupt = console.interrupt;
  return LocalServer::Start(std::move(server_options));
}

}  // namespace

std::string ResolveAddress(const ConnectionOptions& options,
                           const Console& console) {
  if (!options.address.empty()) return options.address;
  const auto from_environment = console.getenv("QUERN_ADDRESS");
  if (from_environment.has_value() && !from_environment->empty()) {
    return *from_environment;
  }
  return kDefaultAddress;
}

absl::StatusOr<std::filesystem::path> FindServerBinary(const Console& console) {
  const auto named = console.getenv("QUERND");
  const bool is_named = named.has_value() && !named->empty();
  std::filesystem::path binary = is_named ? std::filesystem::path(*named)
                                          : console.program_folder / "quernd";
  if (access(binary.c_str(), X_OK) == 0) return binary;
  return absl::NotFoundError(
      absl::StrCat(binary.string(), is_named ? ", which QUERND names," : "",
                   " cannot be run: set QUERND to a quernd that can"));
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(
    const ConnectionOptions& options, const Console& console, StopOn stop_on) {
  if (!options.data_folder.empty() && !options.local) {
    return UsageError("--data is the private server's: it needs --local");
  }
  std::unique_ptr<Connection> connection(new Connection());
  ClientOptions client_options;
  client_options.address = ResolveAddress(options, console);
  client_options.timeout = options.timeout;
  if (options.local) {
    auto server = StartLocalServer(options, console);
    if (!server.ok()) return server.status();
    connection->server_ = *std::move(server);
    client_options.address = connection->server_->address();
  }
  auto client = Client::Create(std::move(client_options));
  if (!client.ok()) return client.status();
  connection->client_ = *std::move(client);
  connection->on_stop_.emplace(
      stop_on == StopOn::kInterrupt ? console.interrupt : console.abort,
      Shutdown{connection->client_.get()});
  return connection;
}

}  // namespace quern::cli
