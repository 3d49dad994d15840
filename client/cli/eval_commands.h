#pragma once

#include <CLI/CLI.hpp>

#include "client/cli/command.h"

// The commands below `quern eval` that have a file of their own.

namespace quern::cli {

// `line` must outlive `eval`.
void AddEvalMoments(CLI::App& eval, CommandLine& line);

}  // namespace quern::cli
