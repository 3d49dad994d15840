#pragma once

#include <string>
#include <vector>

#include "client/cli/console.h"

namespace quern::cli {

// Runs one command line (without the program's name) and returns its exit
// status. Everything printed goes to the console's streams.
ExitCode RunCli(const std::vector<std::string>& arguments, Console& console);

}  // namespace quern::cli
