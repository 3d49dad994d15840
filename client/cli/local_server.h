#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include <sys/types.h>

namespace quern::cli {

struct LocalServerOptions {
  std::filesystem::path binary;       // quernd.
  std::filesystem::path data_folder;  // Empty: a temporary one.
  std::vector<std::string> settings;  // "key=value", as --set takes them.
  // For loading the models.
  absl::Duration start_timeout = absl::Minutes(2);
  // Between SIGTERM and SIGKILL.
  absl::Duration stop_timeout = absl::Seconds(40);
  std::stop_token interrupt;  // Gives up waiting for the start.
};

// The command line of a private server: any free port of the loopback, no
// metrics, only warnings in its log; then `settings`.
std::vector<std::string> LocalServerArguments(
    const std::filesystem::path& binary,
    const std::filesystem::path& data_folder,
    const std::vector<std::string>& settings = {});

// The address in quernd's "quernd ready address=HOST:PORT metrics=..." line.
// INVALID_ARGUMENT for any other line.
absl::StatusOr<std::string> ParseReadyLine(absl::string_view line);

// A quernd of one's own. The kernel ends it when the thread that made it dies,
// however that happens. Not thread-safe.
class LocalServer {
 public:
  // Waits until it is ready. An error holds the end of the server's log.
  static absl::StatusOr<std::unique_ptr<LocalServer>> Start(
      LocalServerOptions options);
  // Stops it, waits for its end, and removes what is temporary.
  ~LocalServer();

  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;

  const std::string& address() const { return address_; }

 private:
  explicit LocalServer(LocalServerOptions options);

  absl::Status MakeFolders();
  absl::Status Launch();
  // Reads the pipe up to a line end.
  absl::StatusOr<std::string> AwaitReadyLine();
  // Waits until the process closes its end of the pipe, which its end does.
  // False when it has not by `deadline`.
  bool AwaitEnd(absl::Time deadline);
  absl::Status StartFailure(absl::string_view reason);

  const LocalServerOptions options_;
  std::filesystem::path temporary_folder_;
  std::filesystem::path log_path_;
  std::string address_;
  pid_t process_ = -1;
  int output_ = -1;  // Read end of the server's standard output.
};

}  // namespace quern::cli
