#pragma once

#include <string>

#include "absl/status/status.h"
#include <CLI/CLI.hpp>

#include "client/cli/ask_server.h"
#include "client/cli/command.h"

// The commands below `quern eval` that have a file of their own.

namespace quern::cli {

// `line` must outlive `eval`.
void AddEvalCorpusMoments(CLI::App& eval, CommandLine& line);
void AddEvalGrounding(CLI::App& eval, CommandLine& line);
void AddEvalMoments(CLI::App& eval, CommandLine& line);

// What these commands compare, and how they print it.
struct EvalFiles {
  std::string ground_truth;
  std::string predictions;
  bool allow_missing = false;
  bool json = false;
};

// Declares --ground-truth, --predictions, --allow-missing and --json. `files`
// must outlive `command`. Returns --predictions, which is not required yet.
CLI::Option* AddEvalFiles(CLI::App& command, EvalFiles& files);

// Declares what a server is asked about instead: the folder `name`, with
// --model, or --collection.
void AddMediaSource(CLI::App& command, const std::string& name,
                    AskOptions& options, CLI::Option* predictions);

// A usage error when none of predictions, the folder `name` and a collection
// are named.
absl::Status CheckSource(const EvalFiles& files, const AskOptions& ask,
                         const std::string& name);

}  // namespace quern::cli
