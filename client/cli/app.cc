#include "client/cli/app.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/failure.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] = R"(Examples:
  quern index ~/Pictures                    index a folder into "photos"
  quern search "a dog in the snow"          search it
  quern search "red flowers" --html out.html
  quern --local --data ./data index DIR     without a running server

Exit status: 0 all good; 1 the server, the network or a file failed; 2 wrong
usage; 3 done, but some files failed; 130 interrupted.)";

void AddConnectionOptions(CLI::App& app, ConnectionOptions& options) {
  CLI::Option* address =
      app.add_option("--address", options.address,
                     "The server's HOST:PORT. Default: $QUERN_ADDRESS, else "
                     "127.0.0.1:7070")
          ->type_name("HOST:PORT");
  app.add_flag("--local", options.local,
               "Starts a private quernd for this run ($QUERND, else the one "
               "beside quern)")
      ->excludes(address);
  app.add_option("--data", options.data_folder,
                 "The private server's data folder. Default: a temporary one")
      ->type_name("DIR");
  app.add_option_function<double>(
         "--timeout",
         [&options](double seconds) {
           options.timeout = absl::Seconds(seconds);
         },
         "Longest wait for an answer, in seconds. Default: 60")
      ->check(CLI::Range(0.001, 86400.0).description(""))
      ->type_name("SECONDS");
}

ExitCode Report(const absl::Status& status, const std::string& address,
                Console& console) {
  if (absl::IsCancelled(status) && console.interrupt.stop_requested()) {
    console.err << "quern: interrupted\n";
    return ExitCode::kInterrupted;
  }
  console.err << "quern: " << Explain(status, address) << "\n";
  return IsUsageError(status) ? ExitCode::kUsage : ExitCode::kError;
}

}  // namespace

std::string CheckUtf8(const std::string& value) {
  return IsValidUtf8(value) ? std::string() : "the text is not UTF-8";
}

std::string Version() { return QUERN_VERSION; }

ExitCode RunCli(const std::vector<std::string>& arguments, Console& console) {
  CommandLine line;
  CLI::App app("Search pictures by what they show, through a quernd server.",
               "quern");
  app.set_version_flag("--version", absl::StrCat("quern ", Version()));
  app.footer(kFooter);
  app.require_subcommand(1);
  AddConnectionOptions(app, line.connection);
  AddIndexCommand(app, line);
  AddSearchCommand(app, line);
  AddCollectionsCommand(app, line);
  AddSnapshotsCommand(app, line);
  AddModelCommand(app, line);
  AddStatusCommand(app, line);
  AddGroundCommand(app, line);
  AddMomentsCommand(app, line);
  AddEvalCommand(app, line);

  // CLI11 takes the arguments from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, console.out, console.err) == 0 ? ExitCode::kOk
                                                          : ExitCode::kUsage;
  }
  const absl::StatusOr<ExitCode> code = line.run(console);
  if (code.ok()) return *code;
  return Report(code.status(), ResolveAddress(line.connection, console),
                console);
}

}  // namespace quern::cli
