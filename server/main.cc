// quernd: the server. main() reads the configuration, starts a Server and waits
// for a signal.

#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include <pthread.h>

#include "engine/base/status_macros.h"
#include "server/backends.h"
#include "server/config.h"
#include "server/config_table.h"
#include "server/health_check.h"
#include "server/log.h"
#include "server/server.h"
#include "server/version.h"

namespace quern {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

constexpr char kDescription[] =
    "quernd, the Quern server: cross-modal retrieval over gRPC.\n"
    "Prints \"quernd ready address=HOST:PORT metrics=HOST:PORT\" once it "
    "serves, and logs to standard error.";
constexpr char kFooter[] =
    "Configuration: defaults, then --config, then the environment "
    "(QUERN_SERVER__ADDRESS\nfor server.address), then --set. "
    "--config-table lists the keys.\n\n"
    "Signals: SIGTERM and SIGINT let running calls finish (up to "
    "server.drain_timeout);\na second one cancels them.\n\n"
    "Exit codes: 0 after a signal, or when what was asked for is done;\n"
    "  1 the server could not start, or --health found none serving;\n"
    "  2 the command line or the configuration is wrong.\n\n"
    "Example:\n"
    "  quernd --config configs/quernd.yaml --set server.address=0.0.0.0:7070";

struct Options {
  std::string config_path;
  std::vector<std::string> assignments;
  std::string health_address;
  bool print_config = false;
  bool check_config = false;
  bool config_table = false;
};

void AddOptions(CLI::App& app, Options& options) {
  app.add_option("--config", options.config_path, "A YAML file")
      ->type_name("FILE");
  app.add_option("--set", options.assignments,
                 "Sets a key of the configuration; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app.add_flag("--print-config", options.print_config,
               "Print the configuration in effect as YAML, and exit");
  app.add_flag("--check-config", options.check_config,
               "Check the configuration, and exit");
  app.add_flag(
      "--config-table", options.config_table,
      "Print every key with default and meaning as Markdown, and exit");
  app.add_option("--health", options.health_address,
                 "Ask the server at HOST:PORT whether it serves, and exit")
      ->type_name("HOST:PORT");
  app.set_version_flag("--version", absl::StrCat("quernd ", kVersion));
}

absl::StatusOr<v1::Config> EffectiveConfig(const Options& options) {
  v1::Config config = DefaultConfig();
  if (!options.config_path.empty()) {
    QUERN_RETURN_IF_ERROR(MergeFile(options.config_path, config));
  }
  QUERN_RETURN_IF_ERROR(MergeEnvironment(ProcessEnvironment(), config));
  for (const std::string& assignment : options.assignments) {
    QUERN_RETURN_IF_ERROR(MergeAssignment(assignment, config));
  }
  return config;
}

int Fail(const absl::Status& status, int exit_code) {
  std::cerr << "quernd: " << status.message() << std::endl;
  return exit_code;
}

// SIGTERM and SIGINT, held back from every thread that starts from now on, and
// SIGUSR1, by which the thread that shuts down says that it is done.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// Drains at the first signal; a second one cancels what is left.
void ServeUntilSignal(const sigset_t& signals, Server& server) {
  int signal = 0;
  do {
    sigwait(&signals, &signal);
  } while (signal == SIGUSR1);
  std::thread stopper([&server, waiting = pthread_self()] {
    server.Shutdown();
    pthread_kill(waiting, SIGUSR1);
  });
  sigwait(&signals, &signal);
  if (signal != SIGUSR1) server.CancelCalls();
  stopper.join();
}

int Serve(const v1::Config& config) {
#ifdef NDEBUG
  // Debian's Abseil looks for cycles of locks, under one lock of the whole
  // process. Debug builds and the tests keep that.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  const sigset_t signals = BlockSignals();
  ConfigureLog(config.log());
  absl::StatusOr<Backends> backends = CreateBackends(config);
  if (!backends.ok()) return Fail(backends.status(), kExitFailure);
  absl::StatusOr<std::unique_ptr<Server>> server =
      Server::Create(config, *std::move(backends));
  if (!server.ok()) return Fail(server.status(), kExitFailure);
  const std::string& metrics = (*server)->metrics_address();
  std::cout << "quernd ready address=" << (*server)->address()
            << " metrics=" << (metrics.empty() ? "off" : metrics) << std::endl;
  ServeUntilSignal(signals, **server);
  return 0;
}

int Run(const Options& options) {
  if (!options.health_address.empty()) {
    const absl::Status status = CheckHealth(options.health_address);
    return status.ok() ? 0 : Fail(status, kExitFailure);
  }
  if (options.config_table) {
    std::cout << ConfigTable(BuiltInDescriptorSet()).value();
    return 0;
  }
  const absl::StatusOr<v1::Config> config = EffectiveConfig(options);
  if (!config.ok()) return Fail(config.status(), kExitUsage);
  if (options.print_config) std::cout << ConfigToYaml(*config);
  if (options.print_config || options.check_config) return 0;
  return Serve(*config);
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app(quern::kDescription, "quernd");
  app.footer(quern::kFooter);
  quern::Options options;
  quern::AddOptions(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : quern::kExitUsage;
  }
  return quern::Run(options);
}
