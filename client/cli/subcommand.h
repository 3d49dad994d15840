#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"

// For commands that have commands of their own, all with one set of options and
// run against the server that the command line names.

namespace quern::cli {

template <typename Options>
using Action = absl::StatusOr<ExitCode> (*)(const Options&, Client&, Console&);

// What runs `action` once it is connected. `line` must outlive it.
template <typename Options>
std::function<absl::StatusOr<ExitCode>(Console&)> Connected(
    Action<Options> action, const std::shared_ptr<Options>& options,
    const CommandLine& line) {
  return
      [action, options, &line](Console& console) -> absl::StatusOr<ExitCode> {
        auto connection = Connection::Open(line.connection, console,
                                           Connection::StopOn::kInterrupt);
        if (!connection.ok()) return connection.status();
        return action(*options, (*connection)->client(), console);
      };
}

// Declares a command below `parent` and what it runs. `line` must outlive it.
template <typename Options>
CLI::App* AddAction(CLI::App& parent, const std::string& name,
                    const std::string& description, Action<Options> action,
                    const std::shared_ptr<Options>& options,
                    CommandLine& line) {
  CLI::App* command = parent.add_subcommand(name, description);
  command->fallthrough();
  command->callback([action, options, &line] {
    line.run = Connected(action, options, line);
  });
  return command;
}

// The NAME that a command is about.
inline void AddName(CLI::App* command, const std::string& description,
                    std::string& name) {
  command->add_option("NAME", name, description)
      ->required()
      ->check(CheckUtf8)
      ->type_name("");
}

}  // namespace quern::cli
