#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

#include "client/cli/failure.h"
#include "client/cli/json_format.h"
#include "client/cli/model_table.h"
#include "client/cli/subcommand.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "client/cli/verify_model.h"

namespace quern::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kFooter[] = R"(Examples:
  quern model list
  quern model show quern-lite
  quern model load /srv/models/siglip --device cuda:0
  quern model default siglip
  quern model unload quern-lite
  quern model verify ./siglip

Which server: see --address and --local in quern --help; verify starts one of its
own.

Exit status: 0 all good; 1 the server failed, or the package is not what its
exporter saw; 2 wrong usage; 130 interrupted.)";

struct ModelOptions {
  std::string name;
  std::string path;
  std::string device;
  std::string precision;
  double seconds = 0.5;
  bool force = false;
  bool json = false;
};

absl::StatusOr<ExitCode> List(const ModelOptions& options, Client& client,
                              Console& console) {
  const auto models = client.ListModels();
  if (!models.ok()) return models.status();
  if (options.json) {
    Json list = Json::array();
    for (const v1::Model& model : *models) list.push_back(ToJson(model));
    console.out << Dump(list);
  } else {
    console.out << FormatModels(*models, console.out_width);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Show(const ModelOptions& options, Client& client,
                              Console& console) {
  const auto model = client.GetModel(options.name);
  if (!model.ok()) return model.status();
  console.out << (options.json ? Dump(ToJson(*model))
                               : FormatModel(*model, console.out_width));
  return ExitCode::kOk;
}

// `name` is one of the option's choices or empty.
v1::Model::Precision PrecisionOf(const std::string& name) {
  v1::Model::Precision precision = v1::Model::PRECISION_UNSPECIFIED;
  v1::Model::Precision_Parse(
      absl::StrCat("PRECISION_", absl::AsciiStrToUpper(name)), &precision);
  return precision;
}

absl::StatusOr<ExitCode> Load(const ModelOptions& options, Client& client,
                              Console& console) {
  v1::LoadModelRequest request;
  request.set_path(fs::absolute(options.path).lexically_normal().string());
  request.set_device(options.device);
  request.set_precision(PrecisionOf(options.precision));
  const auto model = client.LoadModel(request);
  if (!model.ok()) return model.status();
  if (options.json) {
    console.out << Dump(ToJson(*model));
  } else {
    console.out << "Loaded \"" << TerminalSafe(model->name()) << "\" "
                << TerminalSafe(model->version()) << ".\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Unload(const ModelOptions& options, Client& client,
                                Console& console) {
  v1::UnloadModelRequest request;
  request.set_name(options.name);
  request.set_force(options.force);
  if (absl::Status status = client.UnloadModel(request); !status.ok()) {
    return status;
  }
  if (options.json) {
    console.out << Dump({{"unloaded", options.name}});
  } else {
    console.out << "Unloaded \"" << TerminalSafe(options.name) << "\".\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> SetDefault(const ModelOptions& options, Client& client,
                                    Console& console) {
  const auto model = client.SetDefaultModel(options.name);
  if (!model.ok()) return model.status();
  if (options.json) {
    console.out << Dump(ToJson(*model));
  } else {
    console.out << "The default is \"" << TerminalSafe(model->name())
                << "\" now.\n";
  }
  return ExitCode::kOk;
}

// --- verify ------------------------------------------------------------------

struct Verification {
  v1::Model model;
  double tolerance = 0;
  std::vector<Parity> parities;
  std::vector<Speed> speeds;
};

// The canary's tolerance is for 32-bit floats; the server holds coarser ones to
// a limit of its own when it loads the model.
bool ToleranceApplies(const v1::Model& model) {
  return model.precision() == v1::Model::PRECISION_UNSPECIFIED ||
         model.precision() == v1::Model::PRECISION_FP32;
}

bool Passes(const Verification& verification, const Parity& parity) {
  return !ToleranceApplies(verification.model) ||
         parity.largest_difference <= verification.tolerance;
}

Json ToJson(const Verification& verification) {
  Json parities = Json::array();
  bool passed = true;
  for (const Parity& parity : verification.parities) {
    // JSON has no infinity.
    const Json difference = std::isfinite(parity.largest_difference)
                                ? Json(parity.largest_difference)
                                : Json(nullptr);
    parities.push_back({{"inputs", parity.name},
                        {"count", parity.count},
                        {"largest_difference", difference},
                        {"passed", Passes(verification, parity)}});
    passed = passed && Passes(verification, parity);
  }
  Json speeds = Json::array();
  for (const Speed& speed : verification.speeds) {
    speeds.push_back({{"inputs", speed.name},
                      {"inputs_per_call", speed.inputs_per_call},
                      {"ms_per_call", speed.milliseconds_per_call},
                      {"inputs_per_second", speed.inputs_per_second}});
  }
  return {{"model", cli::ToJson(verification.model)},
          {"tolerance", verification.tolerance},
          {"passed", passed},
          {"parity", parities},
          {"speed", speeds}};
}

void PrintTables(const Verification& verification, Console& console) {
  console.out << FormatModel(verification.model, console.out_width)
              << "\nThe canary passed: the server loaded the package.\n\n";
  Table parities({{"parity"},
                  {"inputs", Table::Align::kRight},
                  {"largest difference", Table::Align::kRight},
                  {"allowed", Table::Align::kRight}});
  const std::string allowed =
      ToleranceApplies(verification.model)
          ? absl::StrFormat("%.1e", verification.tolerance)
          : "below fp32";
  for (const Parity& parity : verification.parities) {
    parities.AddRow({parity.name, absl::StrCat(parity.count),
                     absl::StrFormat("%.1e", parity.largest_difference),
                     allowed});
  }
  console.out << parities.Format(console.out_width) << "\n";
  Table speeds({{"speed"},
                {"inputs a call", Table::Align::kRight},
                {"ms a call", Table::Align::kRight},
                {"inputs/s", Table::Align::kRight}});
  for (const Speed& speed : verification.speeds) {
    speeds.AddRow({speed.name, absl::StrCat(speed.inputs_per_call),
                   absl::StrFormat("%.2f", speed.milliseconds_per_call),
                   absl::StrFormat("%.1f", speed.inputs_per_second)});
  }
  console.out << speeds.Format(console.out_width);
}

absl::StatusOr<Verification> Measure(const ModelOptions& options,
                                     const StoredOutputs& stored,
                                     Client& client, const Console& console) {
  Verification verification{.tolerance = stored.tolerance};
  auto model = client.GetModel("");
  if (!model.ok()) return model.status();
  verification.model = *std::move(model);
  auto parities = MeasureParity(client, stored);
  if (!parities.ok()) return parities.status();
  verification.parities = *std::move(parities);
  auto speeds = MeasureSpeed(client, stored,
                             {.max_tokens = verification.model.max_tokens(),
                              .time_per_row = absl::Seconds(options.seconds),
                              .now = console.now,
                              .interrupt = console.interrupt});
  if (!speeds.ok()) return speeds.status();
  verification.speeds = *std::move(speeds);
  return verification;
}

// A server of its own, with that package alone.
ConnectionOptions OwnServer(const ModelOptions& options,
                            ConnectionOptions connection) {
  const std::string folder =
      fs::absolute(options.path).lexically_normal().string();
  connection.local = true;
  // JSON's quotes are YAML's.
  connection.server_settings = {
      absl::StrCat("models.paths=", Json::array({folder}).dump())};
  if (!options.device.empty()) {
    connection.server_settings.push_back(
        absl::StrCat("models.device=", options.device));
  }
  if (!options.precision.empty()) {
    connection.server_settings.push_back(
        absl::StrCat("models.precision=", options.precision));
  }
  return connection;
}

absl::StatusOr<ExitCode> Verify(const ModelOptions& options,
                                const ConnectionOptions& connection_options,
                                Console& console) {
  if (!connection_options.address.empty()) {
    return UsageError("verify starts a server of its own: leave out --address");
  }
  auto connection = Connection::Open(OwnServer(options, connection_options),
                                     console, Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  const auto stored = ReadStoredOutputs(options.path);
  if (!stored.ok()) return stored.status();
  const auto verification =
      Measure(options, *stored, (*connection)->client(), console);
  if (!verification.ok()) return verification.status();
  if (options.json) {
    console.out << Dump(ToJson(*verification));
  } else {
    PrintTables(*verification, console);
  }
  ExitCode code = ExitCode::kOk;
  for (const Parity& parity : verification->parities) {
    if (Passes(*verification, parity)) continue;
    code = ExitCode::kError;
    console.err << absl::StrFormat(
        "quern: the %s are off by %.1e, allowed are %.1e: the package does not "
        "compute what its exporter saw; export it again\n",
        parity.name, parity.largest_difference, verification->tolerance);
  }
  return code;
}

// --- the command line --------------------------------------------------------

void AddDeviceAndPrecision(CLI::App* command, ModelOptions& options) {
  command
      ->add_option("--device", options.device,
                   "\"cpu\" or \"cuda:N\". Default: the server's")
      ->check(CheckUtf8)
      ->type_name("DEVICE");
  command
      ->add_option("--precision", options.precision,
                   "fp32, bf16 or int8. Default: the server's")
      ->check(CLI::IsMember({"fp32", "bf16", "int8"}).description(""))
      ->type_name("P");
}

}  // namespace

void AddModelCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<ModelOptions>();
  CLI::App* command =
      app.add_subcommand("model", "Lists, loads, unloads and verifies models");
  command->fallthrough();
  command->footer(kFooter);
  command->require_subcommand(0, 1);
  command->add_flag("--json", options->json, "Prints JSON instead of a table");

  // CLI11 runs it after that of a command below.
  command->callback([options, &line] {
    if (!line.run) line.run = Connected(List, options, line);
  });

  AddAction(*command, "list", "All of them, the default", List, options, line);
  AddName(
      AddAction(*command, "show", "Everything about one", Show, options, line),
      "The model", options->name);
  CLI::App* load = AddAction(*command, "load",
                             "Loads a package, or swaps it for a loaded one",
                             Load, options, line);
  load->add_option("DIR", options->path, "The package's folder, on the server")
      ->required()
      ->check(CheckUtf8)
      ->type_name("");
  AddDeviceAndPrecision(load, *options);
  CLI::App* unload =
      AddAction(*command, "unload", "Unloads one", Unload, options, line);
  AddName(unload, "The model", options->name);
  unload->add_flag("--force", options->force, "Even if collections need it");
  AddName(AddAction(*command, "default",
                    "Chooses the one for requests that name none", SetDefault,
                    options, line),
          "The model", options->name);

  CLI::App* verify = command->add_subcommand(
      "verify", "Runs a package's canary, compares outputs and measures speed");
  verify->fallthrough();
  verify->add_option("DIR", options->path, "The package's folder")
      ->required()
      ->check(CLI::ExistingDirectory.description(""))
      ->check(CheckUtf8)
      ->type_name("");
  AddDeviceAndPrecision(verify, *options);
  verify
      ->add_option("--seconds", options->seconds,
                   "Time per row of the speed table. Default: 0.5")
      ->check(CLI::Range(0.0, 3600.0).description(""))
      ->type_name("SECONDS");
  verify->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return Verify(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
