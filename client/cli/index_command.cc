#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/util/message_differencer.h"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/file_scan.h"
#include "client/cli/files.h"
#include "client/cli/fine_options.h"
#include "client/cli/payload_file.h"
#include "client/cli/progress.h"
#include "client/cli/text.h"
#include "client/cpp/rpc_status.h"

// The life of a run: scan the folder -> plan one item per file -> leave out
// what the server has already -> stream the rest.

namespace quern::cli {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

constexpr char kFooter[] =
    R"(Pictures: jpg jpeg png webp gif tif tiff heic avif. Videos: mp4 m4v mov mkv webm
avi mpg mpeg ts flv; 2 frames a second are read, 256 at most. An item's id is its path
relative to DIR; its payload holds file, size_bytes and modified. Hidden files
and links to folders are left out. Files whose stored payload says the same
are skipped, so running the command again resumes it.

Examples:
  quern index ~/Pictures
  quern index stamps --collection stamps --payload stamps.jsonl --parts 7x7
  quern --local --data ./data index ~/Pictures

Which server: see --address and --local in quern --help.

Exit status: 0 all good; 1 the server or a file that is needed failed; 2 wrong
usage; 3 done, but some files failed; 130 interrupted.)";

constexpr size_t kMaxIdBytes = 512;  // The contract's.
constexpr int kListPageSize = 1000;  // Likewise.

struct IndexOptions {
  std::string folder;
  std::string collection = "photos";
  std::string payload_file;
  std::string model;
  PartsFlags parts;
  int window = 16;
  bool force = false;
};

// A file and the request that stores it, still without its bytes.
struct PlannedItem {
  MediaFile file;
  v1::UpsertRequest request;
};

struct Plan {
  std::vector<PlannedItem> items;
  std::vector<BrokenFile> failures;
};

Value StringValue(std::string text) {
  Value value;
  value.set_string_value(std::move(text));
  return value;
}

// What this command itself says of a file; a payload file cannot change it.
void AddFileFields(const MediaFile& file, Struct& payload) {
  auto& fields = *payload.mutable_fields();
  fields["file"] = StringValue(file.relative);
  fields["size_bytes"].set_number_value(static_cast<double>(file.size_bytes));
  fields["modified"] = StringValue(
      absl::FormatTime(absl::RFC3339_full, file.modified, absl::UTCTimeZone()));
}

PlannedItem PlanItem(MediaFile file, const FilePayload* described) {
  PlannedItem item;
  item.request.set_id(file.relative);
  if (described != nullptr) {
    if (!described->id.empty()) item.request.set_id(described->id);
    *item.request.mutable_payload() = described->fields;
  }
  AddFileFields(file, *item.request.mutable_payload());
  item.request.set_media_uri(ValidUtf8(file.path.string()));
  item.file = std::move(file);
  return item;
}

// Files that cannot have the id they should have become failures.
Plan MakePlan(ScanResult scan,
              const std::map<std::string, FilePayload>& payloads) {
  Plan plan;
  plan.failures = std::move(scan.broken);
  std::map<std::string, std::string> file_of_id;
  for (MediaFile& file : scan.files) {
    const auto described = payloads.find(file.relative);
    PlannedItem item =
        PlanItem(std::move(file),
                 described == payloads.end() ? nullptr : &described->second);
    const std::string& id = item.request.id();
    if (id.size() > kMaxIdBytes) {
      plan.failures.push_back(
          {item.file.relative, absl::StrCat("its id has ", id.size(),
                                            " bytes; at most ", kMaxIdBytes)});
      continue;
    }
    const auto [same, is_new] = file_of_id.emplace(id, item.file.relative);
    if (!is_new) {
      plan.failures.push_back(
          {item.file.relative,
           absl::StrCat("its id \"", id, "\" is that of ", same->second)});
      continue;
    }
    plan.items.push_back(std::move(item));
  }
  return plan;
}

// Every field of `wanted` is in `stored` with the same value. Fields that
// somebody else added do not matter.
bool Covers(const Struct& stored, const Struct& wanted) {
  for (const auto& [key, value] : wanted.fields()) {
    const auto found = stored.fields().find(key);
    if (found == stored.fields().end() ||
        !google::protobuf::util::MessageDifferencer::Equals(found->second,
                                                            value)) {
      return false;
    }
  }
  return true;
}

absl::Status EnsureCollection(const IndexOptions& options, Client& client) {
  absl::StatusOr<v1::Collection> existing =
      client.GetCollection(options.collection);
  if (absl::IsNotFound(existing.status())) {
    v1::Collection collection;
    collection.set_name(options.collection);
    collection.set_model(options.model);
    SetParts(options.parts, collection);
    existing = client.CreateCollection(collection);
    // Somebody else was faster.
    if (absl::IsAlreadyExists(existing.status())) {
      existing = client.GetCollection(options.collection);
    }
  }
  if (!existing.ok()) return existing.status();
  if (!options.model.empty() && existing->model() != options.model) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection \"", options.collection, "\" is of model \"",
                     existing->model(), "\", not \"", options.model,
                     "\": choose another --collection"));
  }
  v1::Collection wanted;
  SetParts(options.parts, wanted);
  if (wanted.parts().dense() != existing->parts().dense() &&
      !options.parts.grid.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection \"", options.collection,
                     "\" was made with other --parts than ", options.parts.grid,
                     ": choose another --collection"));
  }
  const auto is_compressed = [](const v1::Collection& of) {
    return of.parts().encoding() == v1::PartsConfig::ENCODING_COMPRESSED;
  };
  if (is_compressed(wanted) != is_compressed(*existing) &&
      !options.parts.encoding.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection \"", options.collection,
                     "\" was made with other --parts-encoding than ",
                     options.parts.encoding, ": choose another --collection"));
  }
  if (options.parts.searchable && !existing->parts().searchable()) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection \"", options.collection,
                     "\" was made without --parts-searchable: choose another "
                     "--collection"));
  }
  return absl::OkStatus();
}

// Takes items that are stored as planned out of the plan; returns how many.
absl::StatusOr<int64_t> RemoveUnchanged(const IndexOptions& options,
                                        const Console& console, Client& client,
                                        std::vector<PlannedItem>& items) {
  std::map<std::string, const Struct*> wanted;
  for (const PlannedItem& item : items) {
    wanted.emplace(item.request.id(), &item.request.payload());
  }
  v1::ListItemsRequest request;
  request.set_collection(options.collection);
  request.set_page_size(kListPageSize);
  request.mutable_read_mask()->add_paths("id");
  request.mutable_read_mask()->add_paths("payload");
  do {
    if (console.interrupt.stop_requested()) {
      return absl::CancelledError("interrupted");
    }
    const absl::StatusOr<v1::ListItemsResponse> page =
        client.ListItems(request);
    if (!page.ok()) return page.status();
    for (const v1::Item& item : page->items()) {
      const auto found = wanted.find(item.id());
      if (found != wanted.end() && Covers(item.payload(), *found->second)) {
        wanted.erase(found);
      }
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return static_cast<int64_t>(std::erase_if(items, [&](const auto& item) {
    return wanted.find(item.request.id()) == wanted.end();
  }));
}

// Streams the plan's items and keeps what became of them. Results come on the
// stream's thread.
class Uploader {
 public:
  Uploader(const IndexOptions& options, Console* console, int64_t total)
      : options_(options),
        console_(console),
        progress_(console, "Indexing", total) {}

  // An error is the stream's; the items' own are in failures().
  absl::Status Run(Client& client, std::vector<PlannedItem>& items) {
    for (const PlannedItem& item : items) {
      file_of_id_.emplace(item.request.id(), item.file.relative);
    }
    const auto stream = client.Upsert(
        options_.collection, {.window = options_.window},
        [this](const v1::UpsertResponse& result) { OnResult(result); });
    const int64_t max_bytes = MaxMediaBytes(client);
    for (PlannedItem& item : items) {
      if (console_->interrupt.stop_requested()) break;
      absl::StatusOr<std::string> bytes = ReadFile(item.file.path, max_bytes);
      if (!bytes.ok()) {
        AddFailure(item.file.relative, std::string(bytes.status().message()));
        continue;
      }
      v1::Media& media = item.file.is_video ? *item.request.mutable_video()
                                            : *item.request.mutable_image();
      media.set_content(*std::move(bytes));
      if (absl::Status status = stream->Write(std::move(item.request));
          !status.ok()) {
        return status;
      }
    }
    return stream->Finish();
  }

  ProgressState state() const { return progress_.state(); }

  std::vector<BrokenFile> TakeFailures() {
    absl::MutexLock lock(&mutex_);
    return std::move(failures_);
  }

 private:
  void OnResult(const v1::UpsertResponse& result) {
    const absl::Status status = client::FromRpcStatus(result.status());
    if (!status.ok()) {
      const auto file = file_of_id_.find(result.id());
      AddFailure(file == file_of_id_.end() ? result.id() : file->second,
                 std::string(status.message()));
      return;
    }
    progress_.Add(/*failed=*/false);
  }

  void AddFailure(std::string file, std::string reason) {
    {
      absl::MutexLock lock(&mutex_);
      failures_.push_back({std::move(file), std::move(reason)});
    }
    progress_.Add(/*failed=*/true);
  }

  const IndexOptions& options_;
  Console* const console_;
  Progress progress_;
  std::map<std::string, std::string>
      file_of_id_;  // Not changed while streaming.
  absl::Mutex mutex_;
  std::vector<BrokenFile> failures_ ABSL_GUARDED_BY(mutex_);
};

std::string Counted(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

void PrintSummary(const IndexOptions& options, const ProgressState& state,
                  int64_t unchanged, size_t failures, Console& console) {
  const int64_t stored = state.done - state.failed;
  const double seconds = absl::ToDoubleSeconds(state.elapsed);
  console.out << "Indexed " << Counted(stored, "file") << " into \""
              << options.collection << "\"";
  if (stored > 0 && seconds > 0) {
    console.out << absl::StrFormat(" in %s, %.1f/s", FormatTime(state.elapsed),
                                   static_cast<double>(stored) / seconds);
  }
  if (unchanged > 0) console.out << "; " << unchanged << " unchanged";
  if (failures > 0) console.out << "; " << failures << " failed";
  console.out << ".\n";
}

void PrintFailures(const std::vector<BrokenFile>& failures, Console& console) {
  if (failures.empty()) return;
  console.err << "Failed:\n";
  for (const BrokenFile& failure : failures) {
    console.err << "  " << TerminalSafe(failure.name) << ": "
                << TerminalSafe(failure.reason) << "\n";
  }
}

void WarnOfUnusedPayloads(const std::map<std::string, FilePayload>& payloads,
                          const ScanResult& scan, Console& console) {
  std::map<std::string, bool> found;
  for (const MediaFile& file : scan.files) found[file.relative] = true;
  for (const auto& [file, payload] : payloads) {
    if (found.find(file) == found.end()) {
      console.err << "quern: payload line " << payload.line << " names \""
                  << TerminalSafe(file) << "\", which is no file in the "
                  << "folder\n";
    }
  }
}

absl::StatusOr<Plan> PlanFolder(const IndexOptions& options, Console& console) {
  std::map<std::string, FilePayload> payloads;
  if (!options.payload_file.empty()) {
    auto read = ReadPayloadFile(options.payload_file);
    if (!read.ok()) return read.status();
    payloads = *std::move(read);
  }
  absl::StatusOr<ScanResult> scan = ScanMedia(options.folder);
  if (!scan.ok()) return scan.status();
  WarnOfUnusedPayloads(payloads, *scan, console);
  return MakePlan(*std::move(scan), payloads);
}

absl::StatusOr<ExitCode> RunIndex(const IndexOptions& options,
                                  const ConnectionOptions& connection_options,
                                  Console& console) {
  absl::StatusOr<Plan> plan = PlanFolder(options, console);
  if (!plan.ok()) return plan.status();
  if (plan->items.empty() && plan->failures.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no pictures or videos in \"", options.folder, "\""));
  }
  auto connection =
      Connection::Open(connection_options, console, Connection::StopOn::kAbort);
  if (!connection.ok()) return connection.status();
  Client& client = (*connection)->client();
  if (absl::Status status = EnsureCollection(options, client); !status.ok()) {
    return status;
  }
  int64_t unchanged = 0;
  if (!options.force) {
    const auto removed = RemoveUnchanged(options, console, client, plan->items);
    if (!removed.ok()) return removed.status();
    unchanged = *removed;
  }

  const auto total = static_cast<int64_t>(plan->items.size());
  absl::Status streamed;
  ProgressState state;
  {
    Uploader uploader(options, &console, total);
    streamed = uploader.Run(client, plan->items);
    state = uploader.state();
    for (BrokenFile& failure : uploader.TakeFailures()) {
      plan->failures.push_back(std::move(failure));
    }
  }
  PrintSummary(options, state, unchanged, plan->failures.size(), console);
  PrintFailures(plan->failures, console);
  if (console.interrupt.stop_requested() && state.done < total) {
    console.err << "Interrupted with " << total - state.done
                << " to go: run the same command again to resume.\n";
    return ExitCode::kInterrupted;
  }
  if (!streamed.ok()) {
    console.err << "Stopped with " << total - state.done
                << " to go: run the same command again to resume.\n";
    return streamed;
  }
  return plan->failures.empty() ? ExitCode::kOk : ExitCode::kPartial;
}

}  // namespace

void AddIndexCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<IndexOptions>();
  CLI::App* command = app.add_subcommand(
      "index", "Indexes the pictures and videos in a folder");
  command->fallthrough();
  command->footer(kFooter);
  command->add_option("DIR", options->folder, "The folder, with all below it")
      ->required()
      ->check(CLI::ExistingDirectory.description(""))
      ->type_name("");
  command
      ->add_option("--collection", options->collection,
                   "Made when it is not there. Default: photos")
      ->check(CheckUtf8)
      ->type_name("NAME");
  command
      ->add_option("--payload", options->payload_file,
                   "Lines of {\"file\": relative path, \"id\"?: ..., more "
                   "fields}")
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE.jsonl");
  command
      ->add_option("--model", options->model,
                   "Model of a new collection. Default: the server's")
      ->check(CheckUtf8)
      ->type_name("NAME");
  AddPartsOptions(*command, options->parts);
  command
      ->add_option("--window", options->window,
                   "Files in flight, 1 to 1024. Default: 16")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  command->add_flag("--force", options->force,
                    "Index what has not changed again");
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return RunIndex(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
