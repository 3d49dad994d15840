// The `quern` command: parses in app.cc, one file per command.

#include <csignal>
#include <string>
#include <vector>

#include "client/cli/app.h"
#include "client/cli/console.h"
#include "client/cli/interrupt.h"

int main(int argc, char** argv) {
  // A reader that goes away ("quern search ... | head") is an error of the
  // stream, not the end of the process: a private server has to be stopped.
  std::signal(SIGPIPE, SIG_IGN);
  const quern::cli::Interrupt interrupt;
  quern::cli::Console console = quern::cli::ProcessConsole(interrupt);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  return static_cast<int>(quern::cli::RunCli(arguments, console));
}
