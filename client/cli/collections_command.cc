#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

#include "client/cli/collection_table.h"
#include "client/cli/failure.h"
#include "client/cli/fine_options.h"
#include "client/cli/json_format.h"
#include "client/cli/progress.h"
#include "client/cli/subcommand.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

// Between two looks at a job.
constexpr absl::Duration kJobPoll = absl::Milliseconds(200);

constexpr char kFooter[] = R"(Examples:
  quern collections
  quern collections get photos --json
  quern collections create vectors --model none --dimension 384
  quern collections create photos --field year:number --field tags:string[]
  quern collections create photos --parts 7x7
  quern collections create notes --keep-media
  quern collections optimize photos --wait
  quern collections reindex photos --model clip --wait
  quern collections delete photos --yes

Which server: see --address and --local in quern --help.

Exit status: 0 all good; 1 the server failed; 2 wrong usage; 130 interrupted.)";

struct CollectionsOptions {
  std::string name;
  std::string model;
  std::string description;
  std::vector<std::string> fields;
  int dimension = 0;
  PartsFlags parts;
  bool keep_media = false;
  bool json = false;
  bool yes = false;
  bool wait = false;
};

absl::StatusOr<ExitCode> List(const CollectionsOptions& options, Client& client,
                              Console& console) {
  const auto collections = client.ListCollections();
  if (!collections.ok()) return collections.status();
  if (options.json) {
    Json list = Json::array();
    for (const auto& collection : *collections) {
      list.push_back(ToJson(collection));
    }
    console.out << Dump(list);
  } else {
    console.out << FormatCollections(*collections, console.out_width);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Print(const absl::StatusOr<v1::Collection>& collection,
                               Console& console) {
  if (!collection.ok()) return collection.status();
  console.out << Dump(ToJson(*collection));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Get(const CollectionsOptions& options, Client& client,
                             Console& console) {
  const auto collection = client.GetCollection(options.name);
  if (options.json || !collection.ok()) return Print(collection, console);
  console.out << FormatCollections({*collection}, console.out_width);
  if (!collection->status().message().empty()) {
    console.out << TerminalSafe(collection->status().message()) << "\n";
  }
  return ExitCode::kOk;
}

// Of "PATH:TYPE", or "PATH:TYPE[]" for a field that holds a list.
absl::StatusOr<v1::PayloadField> ParseField(absl::string_view text) {
  const size_t colon = text.rfind(':');
  absl::string_view type =
      colon == text.npos ? absl::string_view() : text.substr(colon + 1);
  v1::PayloadField field;
  field.set_repeated(absl::ConsumeSuffix(&type, "[]"));
  v1::PayloadField::Type value = v1::PayloadField::TYPE_UNSPECIFIED;
  v1::PayloadField::Type_Parse(
      absl::StrCat("TYPE_", absl::AsciiStrToUpper(type)), &value);
  if (value == v1::PayloadField::TYPE_UNSPECIFIED) {
    return UsageError(absl::StrCat(
        "--field ", text,
        " is not PATH:TYPE with a type of string, number, bool or timestamp"));
  }
  field.set_path(std::string(text.substr(0, colon)));
  field.set_type(value);
  return field;
}

absl::StatusOr<ExitCode> Create(const CollectionsOptions& options,
                                Client& client, Console& console) {
  v1::Collection collection;
  collection.set_name(options.name);
  collection.set_model(options.model);
  collection.set_description(options.description);
  collection.set_dimension(options.dimension);
  for (const std::string& text : options.fields) {
    const absl::StatusOr<v1::PayloadField> field = ParseField(text);
    if (!field.ok()) return field.status();
    *collection.add_payload_fields() = *field;
  }
  SetParts(options.parts, collection);
  if (options.keep_media) {
    v1::PartsConfig& parts = *collection.mutable_parts();
    // Its default is that of a collection that keeps parts.
    if (parts.dense() == v1::PartsConfig::DENSE_UNSPECIFIED) {
      parts.set_frames_per_second(0);
    }
    parts.set_keep_media(true);
  }
  const auto created = client.CreateCollection(collection);
  if (options.json || !created.ok()) return Print(created, console);
  console.out << "Made \"" << TerminalSafe(created->name()) << "\".\n";
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Delete(const CollectionsOptions& options,
                                Client& client, Console& console) {
  if (!options.yes) {
    return UsageError(absl::StrCat("\"", options.name,
                                   "\" would be deleted with all of its items: "
                                   "say --yes to do it"));
  }
  const auto deleted = client.DeleteCollection(options.name);
  if (!deleted.ok()) return deleted.status();
  console.out << "Deleted \"" << TerminalSafe(options.name) << "\" with "
              << deleted->deleted_item_count() << " items.\n";
  return ExitCode::kOk;
}

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED ||
         job.state() == v1::Job::STATE_FAILED;
}

// Shows how far the job is until it has ended.
absl::StatusOr<v1::Job> Await(v1::Job job, const std::string& doing,
                              Client& client, Console& console) {
  constexpr int kSteps = 100;
  Progress progress(&console, absl::StrCat(doing, " %"), kSteps);
  while (true) {
    while (static_cast<float>(progress.state().done) <
           job.progress() * static_cast<float>(kSteps)) {
      progress.Add(/*failed=*/false);
    }
    if (HasEnded(job)) return job;
    client.options().sleep(kJobPoll);
    auto next = client.GetJob(job.id());
    if (!next.ok()) return next;
    job = *std::move(next);
  }
}

// Says what becomes of a job: `doing` it ("Optimizing"), or having `done` it.
absl::StatusOr<ExitCode> Follow(absl::StatusOr<v1::Job> job,
                                const std::string& doing,
                                const std::string& done,
                                const CollectionsOptions& options,
                                Client& client, Console& console) {
  if (job.ok() && options.wait) {
    job = Await(*std::move(job), doing, client, console);
  }
  if (!job.ok()) return job.status();
  if (job->state() == v1::Job::STATE_FAILED) {
    return absl::AbortedError(absl::StrCat(absl::AsciiStrToLower(doing), " \"",
                                           options.name,
                                           "\": ", job->message()));
  }
  if (options.json) {
    console.out << Dump(ToJson(*job));
  } else if (HasEnded(*job)) {
    console.out << done << " \"" << TerminalSafe(options.name) << "\".\n";
  } else {
    console.out << doing << " \"" << TerminalSafe(options.name)
                << "\" in the background: job " << TerminalSafe(job->id())
                << ".\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Optimize(const CollectionsOptions& options,
                                  Client& client, Console& console) {
  return Follow(client.OptimizeCollection(options.name), "Optimizing",
                "Optimized", options, client, console);
}

absl::StatusOr<ExitCode> Reindex(const CollectionsOptions& options,
                                 Client& client, Console& console) {
  return Follow(client.ReindexCollection(options.name, options.model),
                "Reindexing", "Reindexed", options, client, console);
}

}  // namespace

void AddCollectionsCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<CollectionsOptions>();
  CLI::App* command =
      app.add_subcommand("collections", "Lists, makes and deletes collections");
  command->fallthrough();
  command->footer(kFooter);
  command->require_subcommand(0, 1);
  command->add_flag("--json", options->json, "Prints JSON instead of a table");

  // CLI11 runs it after that of a command below.
  command->callback([options, &line] {
    if (!line.run) line.run = Connected(List, options, line);
  });

  AddAction(*command, "list", "All of them, the default", List, options, line);
  AddName(AddAction(*command, "get", "One of them", Get, options, line),
          "The collection", options->name);
  CLI::App* create = AddAction(*command, "create", "Makes an empty one", Create,
                               options, line);
  AddName(create, "The collection", options->name);
  create
      ->add_option("--model", options->model,
                   "Its model; \"none\" for ready-made embeddings only. "
                   "Default: the server's")
      ->check(CheckUtf8)
      ->type_name("NAME");
  create
      ->add_option("--dimension", options->dimension,
                   "Width of the vectors, 1 to 4096. Default: the model's")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  create
      ->add_option("--field", options->fields,
                   "A payload field that filters may name, as year:number or "
                   "tags:string[]; may be repeated")
      ->type_name("PATH:TYPE");
  AddPartsOptions(*create, options->parts);
  create->add_flag("--keep-media", options->keep_media,
                   "Keeps the files and texts themselves, so that reindex "
                   "needs nothing else");
  create->add_option("--description", options->description, "For people")
      ->check(CheckUtf8)
      ->type_name("TEXT");
  CLI::App* optimize = AddAction(*command, "optimize",
                                 "Seals, merges and compacts its index now",
                                 Optimize, options, line);
  AddName(optimize, "The collection", options->name);
  optimize->add_flag("--wait", options->wait, "Until it is done");
  CLI::App* reindex =
      AddAction(*command, "reindex",
                "Embeds all of its items again with another model, then swaps",
                Reindex, options, line);
  AddName(reindex, "The collection", options->name);
  reindex
      ->add_option("--model", options->model,
                   "The model; its own name for a newer package of it")
      ->required()
      ->check(CheckUtf8)
      ->type_name("NAME");
  reindex->add_flag("--wait", options->wait, "Until it is done");
  CLI::App* remove =
      AddAction(*command, "delete", "Deletes one with all of its items", Delete,
                options, line);
  AddName(remove, "The collection", options->name);
  remove->add_flag("--yes", options->yes, "Really");
}

}  // namespace quern::cli
