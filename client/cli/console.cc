#include "client/cli/console.h"

#include <cstdlib>
#include <iostream>

#include "absl/time/clock.h"
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/cli/interrupt.h"

namespace quern::cli {
namespace {

constexpr int kUsualWidth = 80;

// 0 where `descriptor` is no terminal.
int TerminalWidth(int descriptor) {
  if (isatty(descriptor) == 0) return 0;
  winsize size = {};
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return kUsualWidth;
  }
  return size.ws_col;
}

std::optional<std::string> GetEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

std::filesystem::path ProgramFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace

Console ProcessConsole(const Interrupt& interrupt) {
  return Console{.out = std::cout,
                 .err = std::cerr,
                 .err_is_terminal = isatty(STDERR_FILENO) != 0,
                 .out_width = TerminalWidth(STDOUT_FILENO),
                 .err_width = TerminalWidth(STDERR_FILENO),
                 .getenv = GetEnvironment,
                 .program_folder = ProgramFolder(),
                 .now = absl::Now,
                 .interrupt = interrupt.first(),
                 .abort = interrupt.second()};
}

}  // namespace quern::cli
