#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/time_util.h"
#include "nlohmann/json.hpp"

#include "client/cli/collection_table.h"
#include "client/cli/failure.h"
#include "client/cli/json_format.h"
#include "client/cli/progress.h"
#include "client/cli/subcommand.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "engine/base/file.h"

namespace quern::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kFooter[] = R"(Examples:
  quern snapshots
  quern snapshots create photos
  quern snapshots restore photos 20261123-184501 photos-as-of-monday
  quern snapshots export photos 20261123-184501 photos.tar
  quern --address other:7070 snapshots import photos monday photos.tar

Which server: see --address and --local in quern --help.

Exit status: 0 all good; 1 the server or a file failed; 2 wrong usage; 130
interrupted.)";

struct SnapshotsOptions {
  std::string collection;
  std::string name;
  std::string new_collection;
  std::string file;
  bool json = false;
  bool yes = false;
  bool force = false;
};

std::string Shown(const std::string& collection, const std::string& name) {
  return absl::StrCat("\"", TerminalSafe(collection), "/", TerminalSafe(name),
                      "\"");
}

int64_t Pieces(int64_t bytes) {
  constexpr auto kPiece = static_cast<int64_t>(Client::kSnapshotPieceBytes);
  return (bytes + kPiece - 1) / kPiece;
}

std::string FormatSnapshots(const std::vector<v1::Snapshot>& snapshots,
                            int width) {
  if (snapshots.empty()) return "There are no snapshots.\n";
  Table table({{"collection", Table::Align::kLeft, /*shrinks=*/true},
               {"snapshot"},
               {"items", Table::Align::kRight},
               {"size", Table::Align::kRight},
               {"made"}});
  std::string errors;
  for (const v1::Snapshot& snapshot : snapshots) {
    if (!snapshot.error().empty()) {
      table.AddRow({snapshot.collection(), snapshot.name(), "", "", "damaged"});
      absl::StrAppend(&errors, Shown(snapshot.collection(), snapshot.name()),
                      ": ", snapshot.error(), "\n");
      continue;
    }
    google::protobuf::Timestamp time = snapshot.create_time();
    time.set_nanos(0);
    table.AddRow({snapshot.collection(), snapshot.name(),
                  absl::StrCat(snapshot.item_count()),
                  FormatBytes(snapshot.size_bytes()),
                  google::protobuf::util::TimeUtil::ToString(time)});
  }
  return absl::StrCat(table.Format(width), errors);
}

absl::StatusOr<ExitCode> List(const SnapshotsOptions& options, Client& client,
                              Console& console) {
  const auto snapshots = client.ListSnapshots(options.collection);
  if (!snapshots.ok()) return snapshots.status();
  if (options.json) {
    Json list = Json::array();
    for (const auto& snapshot : *snapshots) list.push_back(ToJson(snapshot));
    console.out << Dump(list);
  } else {
    console.out << FormatSnapshots(*snapshots, console.out_width);
  }
  return ExitCode::kOk;
}

// What was made, in JSON or as a sentence that begins with `verb`.
ExitCode Print(const v1::Snapshot& snapshot, const char* verb,
               const SnapshotsOptions& options, Console& console) {
  if (options.json) {
    console.out << Dump(ToJson(snapshot));
  } else {
    console.out << verb << " " << Shown(snapshot.collection(), snapshot.name())
                << ": " << snapshot.item_count() << " items, "
                << FormatBytes(snapshot.size_bytes()) << ".\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Create(const SnapshotsOptions& options, Client& client,
                                Console& console) {
  v1::CreateSnapshotRequest request;
  request.set_collection(options.collection);
  request.set_name(options.name);
  const auto snapshot = client.CreateSnapshot(request);
  if (!snapshot.ok()) return snapshot.status();
  return Print(*snapshot, "Made", options, console);
}

absl::StatusOr<ExitCode> Delete(const SnapshotsOptions& options, Client& client,
                                Console& console) {
  if (!options.yes) {
    return UsageError(
        absl::StrCat(Shown(options.collection, options.name),
                     " would be deleted for good: say --yes to do it"));
  }
  v1::DeleteSnapshotRequest request;
  request.set_collection(options.collection);
  request.set_name(options.name);
  const absl::Status status = client.DeleteSnapshot(request);
  if (!status.ok()) return status;
  console.out << "Deleted " << Shown(options.collection, options.name) << ".\n";
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Restore(const SnapshotsOptions& options,
                                 Client& client, Console& console) {
  v1::RestoreSnapshotRequest request;
  request.set_collection(options.collection);
  request.set_name(options.name);
  request.set_new_collection(options.new_collection);
  const auto restored = client.RestoreSnapshot(request);
  if (!restored.ok()) return restored.status();
  if (options.json) {
    console.out << Dump(ToJson(*restored));
  } else {
    console.out << "Made collection \"" << TerminalSafe(restored->name())
                << "\" of " << Shown(options.collection, options.name) << ": "
                << restored->status().item_count() << " items.\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<v1::Snapshot> Find(const SnapshotsOptions& options,
                                  Client& client) {
  const auto snapshots = client.ListSnapshots(options.collection);
  if (!snapshots.ok()) return snapshots.status();
  for (const v1::Snapshot& snapshot : *snapshots) {
    if (snapshot.name() == options.name) return snapshot;
  }
  return absl::NotFoundError(absl::StrCat(
      "there is no snapshot ", Shown(options.collection, options.name)));
}

absl::Status FileError(const char* action, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

// The file has its name only when it is whole.
absl::StatusOr<ExitCode> Export(const SnapshotsOptions& options, Client& client,
                                Console& console) {
  std::error_code ignored;
  if (!options.force && fs::exists(options.file, ignored)) {
    return UsageError(absl::StrCat(TerminalSafe(options.file),
                                   " exists: say --force to replace it"));
  }
  const auto snapshot = Find(options, client);
  if (!snapshot.ok()) return snapshot.status();
  const std::string part = options.file + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  if (!file) return FileError("create", part);
  absl::Cleanup remove_part = [&part] {
    std::error_code error;
    fs::remove(part, error);
  };
  v1::ExportSnapshotRequest request;
  request.set_collection(options.collection);
  request.set_name(options.name);
  int64_t bytes = 0;
  absl::Status status;
  {
    Progress progress(&console, "Exporting MiB",
                      Pieces(snapshot->size_bytes()));
    status = client.ExportSnapshot(
        request, [&](absl::string_view piece) -> absl::Status {
          file.write(piece.data(), static_cast<std::streamsize>(piece.size()));
          if (!file) return FileError("write", part);
          bytes += static_cast<int64_t>(piece.size());
          progress.Add(/*failed=*/false);
          return absl::OkStatus();
        });
  }
  if (!status.ok()) return status;
  file.close();
  if (!file) return FileError("write", part);
  status = SyncFile(part);
  if (!status.ok()) return status;
  if (std::rename(part.c_str(), options.file.c_str()) != 0) {
    return FileError("write", options.file);
  }
  std::move(remove_part).Cancel();
  console.out << "Wrote " << TerminalSafe(options.file) << ": "
              << FormatBytes(bytes) << ".\n";
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Import(const SnapshotsOptions& options, Client& client,
                                Console& console) {
  std::error_code error;
  const auto size = fs::file_size(options.file, error);
  errno = error.value();
  if (error) return FileError("read", options.file);
  std::ifstream file(options.file, std::ios::binary);
  if (!file) return FileError("read", options.file);
  absl::StatusOr<v1::Snapshot> snapshot;
  {
    Progress progress(&console, "Importing MiB",
                      Pieces(static_cast<int64_t>(size)));
    snapshot = client.ImportSnapshot(
        options.collection, options.name, [&]() -> absl::StatusOr<std::string> {
          std::string piece(Client::kSnapshotPieceBytes, '\0');
          file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
          if (file.bad()) return FileError("read", options.file);
          piece.resize(static_cast<size_t>(file.gcount()));
          if (!piece.empty()) progress.Add(/*failed=*/false);
          return piece;
        });
  }
  if (!snapshot.ok()) return snapshot.status();
  return Print(*snapshot, "Took in", options, console);
}

CLI::Option* AddArgument(CLI::App* command, const char* name,
                         const char* description, std::string& value) {
  return command->add_option(name, value, description)
      ->check(CheckUtf8)
      ->type_name("");
}

}  // namespace

void AddSnapshotsCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<SnapshotsOptions>();
  CLI::App* command = app.add_subcommand(
      "snapshots", "Makes, restores and moves copies of collections");
  command->fallthrough();
  command->footer(kFooter);
  command->require_subcommand(0, 1);
  command->add_flag("--json", options->json, "Prints JSON");

  // CLI11 runs it after that of a command below.
  command->callback([options, &line] {
    if (!line.run) line.run = Connected(List, options, line);
  });

  const auto add = [&](const char* name, const char* description,
                       Action<SnapshotsOptions> action) {
    return AddAction(*command, name, description, action, options, line);
  };
  const auto add_snapshot = [&options](CLI::App* action) {
    AddArgument(action, "COLLECTION", "The snapshot's collection",
                options->collection)
        ->required();
    AddArgument(action, "NAME", "The snapshot", options->name)->required();
  };

  AddArgument(add("list", "All of them, newest first; the default", List),
              "COLLECTION", "Only of this one", options->collection);
  CLI::App* create = add("create", "Copies a collection as it is now", Create);
  AddArgument(create, "COLLECTION", "The collection", options->collection)
      ->required();
  AddArgument(create, "NAME", "The snapshot's name. Default: the time",
              options->name);
  CLI::App* remove = add("delete", "Deletes a snapshot", Delete);
  add_snapshot(remove);
  remove->add_flag("--yes", options->yes, "Really");
  CLI::App* restore =
      add("restore", "Makes a new collection of a snapshot", Restore);
  add_snapshot(restore);
  AddArgument(restore, "NEW", "The new collection's name",
              options->new_collection)
      ->required();
  CLI::App* to_file = add("export", "Writes a snapshot to a tar file", Export);
  add_snapshot(to_file);
  AddArgument(to_file, "FILE", "The file to write", options->file)->required();
  to_file->add_flag("--force", options->force, "Replaces a file that exists");
  CLI::App* from_file =
      add("import", "Takes in a tar file that export wrote", Import);
  add_snapshot(from_file);
  AddArgument(from_file, "FILE", "The file to read", options->file)->required();
}

}  // namespace quern::cli
