#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <ostream>
#include <stop_token>
#include <string>

#include "absl/time/time.h"

namespace quern::cli {

class Interrupt;

// What every command documents as its exit status.
enum class ExitCode : int {
  kOk = 0,
  kError = 1,         // The server, the network, or a file that had to be read.
  kUsage = 2,         // The command line.
  kPartial = 3,       // Done, but some files failed.
  kInterrupted = 130  // Stopped by SIGINT or SIGTERM.
};

// The world around a command, injected so that commands run in tests.
struct Console {
  std::ostream& out;
  std::ostream& err;
  bool err_is_terminal = false;
  int out_width = 0;  // Columns of the terminal; 0: none, nothing is cut.
  int err_width = 0;  // Likewise.
  std::function<std::optional<std::string>(const std::string&)> getenv;
  std::filesystem::path program_folder;  // Where this binary lies.
  std::function<absl::Time()> now;
  std::stop_token interrupt;  // Asked to stop: finish what is under way.
  std::stop_token abort;      // Asked again: drop it.
};

// Of this process. `interrupt` must outlive the console.
Console ProcessConsole(const Interrupt& interrupt);

}  // namespace quern::cli
