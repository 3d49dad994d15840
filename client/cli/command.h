#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"

#include "client/cli/connection.h"
#include "client/cli/console.h"

namespace CLI {
class App;
}  // namespace CLI

// Each command lives in a file of its own, which declares its options to CLI11
// and leaves what to run in the CommandLine.

namespace quern::cli {

// What the parsed command line asks for.
struct CommandLine {
  ConnectionOptions connection;
  // Set by the command that was named. An error is reported by the caller.
  std::function<absl::StatusOr<ExitCode>(Console&)> run;
};

// `line` must outlive `app`.
void AddIndexCommand(CLI::App& app, CommandLine& line);
void AddSearchCommand(CLI::App& app, CommandLine& line);
void AddCollectionsCommand(CLI::App& app, CommandLine& line);
void AddSnapshotsCommand(CLI::App& app, CommandLine& line);
void AddModelCommand(CLI::App& app, CommandLine& line);
void AddStatusCommand(CLI::App& app, CommandLine& line);
void AddGroundCommand(CLI::App& app, CommandLine& line);
void AddMomentsCommand(CLI::App& app, CommandLine& line);
void AddEvalCommand(CLI::App& app, CommandLine& line);

// An option's check: empty when `value` is UTF-8, else what is wrong.
std::string CheckUtf8(const std::string& value);

// This program's version: "0.1.0".
std::string Version();

}  // namespace quern::cli
