#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/cli/console.h"
#include "client/cli/local_server.h"
#include "client/cpp/client.h"

namespace quern::cli {

// What the command line says about the server.
struct ConnectionOptions {
  // Empty: QUERN_ADDRESS of the environment, or 127.0.0.1:7070.
  std::string address;
  bool local = false;       // A private server for this run.
  std::string data_folder;  // Of the private server. Empty: a temporary one.
  std::vector<std::string> server_settings;    // Of the private server.
  absl::Duration timeout = absl::Seconds(60);  // Of each call.
};

// The address that `options` and the environment name.
std::string ResolveAddress(const ConnectionOptions& options,
                           const Console& console);

// quernd: the environment's QUERND, or the one beside this program. NOT_FOUND
// says how to name one.
absl::StatusOr<std::filesystem::path> FindServerBinary(const Console& console);

// A client, with the private server behind it where one was asked for. The
// server ends with the connection.
class Connection {
 public:
  // When the client is shut down: its calls then fail as CANCELLED.
  enum class StopOn { kInterrupt, kAbort };

  static absl::StatusOr<std::unique_ptr<Connection>> Open(
      const ConnectionOptions& options, const Console& console, StopOn stop_on);

  Client& client() { return *client_; }

 private:
  struct Shutdown {
    Client* client;
    void operator()() const { client->Shutdown(); }
  };

  Connection() = default;

  // In this order: the server outlives the client, the client the callback.
  std::unique_ptr<LocalServer> server_;
  std::unique_ptr<Client> client_;
  std::optional<std::stop_callback<Shutdown>> on_stop_;
};

}  // namespace quern::cli
