#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/collection_table.h"
#include "client/cli/command.h"
#include "client/cli/json_format.h"
#include "client/cli/model_table.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] = R"(Examples:
  quern status
  quern --address search.example:7070 status --json

Which server: see --address and --local in quern --help.

Exit status: 0 the server is serving; 1 it is not, or cannot be reached; 2 wrong
usage; 130 interrupted.)";

struct ServerState {
  std::vector<v1::Model> models;
  std::vector<v1::Collection> collections;
};

void PrintJson(const std::string& address, const ServerState& state,
               Console& console) {
  Json models = Json::array();
  for (const v1::Model& model : state.models) models.push_back(ToJson(model));
  Json collections = Json::array();
  for (const v1::Collection& collection : state.collections) {
    collections.push_back(ToJson(collection));
  }
  console.out << Dump({{"address", address},
                       {"health", "SERVING"},
                       {"client_version", Version()},
                       {"models", models},
                       {"collections", collections}});
}

void PrintText(const std::string& address, const ServerState& state,
               Console& console) {
  console.out << "Server " << TerminalSafe(address)
              << " is serving. This is quern " << Version() << ".\n\n"
              << FormatModels(state.models, console.out_width) << "\n"
              << FormatCollections(state.collections, console.out_width);
}

absl::StatusOr<ServerState> Ask(Client& client) {
  if (absl::Status status = client.CheckHealth(); !status.ok()) return status;
  auto models = client.ListModels();
  if (!models.ok()) return models.status();
  auto collections = client.ListCollections();
  if (!collections.ok()) return collections.status();
  return ServerState{*std::move(models), *std::move(collections)};
}

absl::StatusOr<ExitCode> RunStatus(bool json,
                                   const ConnectionOptions& connection_options,
                                   Console& console) {
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  Client& client = (*connection)->client();
  const absl::StatusOr<ServerState> state = Ask(client);
  if (!state.ok()) return state.status();
  const std::string& address = client.options().address;
  if (json) {
    PrintJson(address, *state, console);
  } else {
    PrintText(address, *state, console);
  }
  return ExitCode::kOk;
}

}  // namespace

void AddStatusCommand(CLI::App& app, CommandLine& line) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(
      "status", "Health, models and collections of the server");
  command->fallthrough();
  command->footer(kFooter);
  command->add_flag("--json", *json, "Prints JSON instead of tables");
  command->callback([json, &line] {
    line.run = [json, &line](Console& console) {
      return RunStatus(*json, line.connection, console);
    };
  });
}

}  // namespace quern::cli
