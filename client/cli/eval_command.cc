#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/captions.h"
#include "client/cli/command.h"
#include "client/cli/embed_inputs.h"
#include "client/cli/eval_commands.h"
#include "client/cli/eval_rerank.h"
#include "client/cli/failure.h"
#include "client/cli/files.h"
#include "client/cli/fine_options.h"
#include "client/cli/json_format.h"
#include "client/cli/progress.h"
#include "client/cli/retrieval_metrics.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(The captions file has lines of file, tab, caption; a picture may have several.
Pictures and captions are embedded by the server and compared exactly.
  t2i   a caption finds its picture among all pictures
  i2t   a picture finds the best of its captions among all captions
Recalls are in percent; rsum is the sum of the six; mdr is the median rank. Ties
count against the query. Lines said twice count once.
With --rerank, captions are searched for in a collection that holds the pictures,
and t2i is printed before and after the order was changed.

Example:
  quern eval retrieval --images flickr8k/dev --captions captions_dev.tsv
  quern index flickr8k/dev --collection flickr --parts 7x7
  quern eval retrieval --images flickr8k/dev --captions captions_dev.tsv \
      --collection flickr --rerank best-part --depth 100

Which server: see --address and --local in quern --help.

Exit status: 0 all good; 1 the server failed, or a picture or line cannot be
used; 2 wrong usage; 130 interrupted.)";

constexpr int kImagesPerCall = 8;
constexpr int kCaptionsPerCall = 64;

struct EvalOptions {
  std::string images;
  std::string captions;
  std::string collection;
  std::string model;
  RerankFlags rerank;
  bool json = false;
};

struct Evaluation {
  RetrievalMetrics metrics;
  size_t images = 0;
  size_t captions = 0;
  int64_t truncated = 0;  // Captions.
  v1::ModelVersion model;
};

// The first line that names each picture.
std::vector<int> FirstLines(const CaptionSet& set) {
  std::vector<int> lines(set.images.size(), 0);
  for (const CaptionSet::Caption& caption : set.captions) {
    int& line = lines[static_cast<size_t>(caption.image)];
    if (line == 0) line = caption.line;
  }
  return lines;
}

absl::Status CannotBeUsed(const std::string& captions,
                          const std::vector<std::string>& problems) {
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(captions, ": ", ListProblems(problems)));
}

// All pictures are there, before the server is asked for anything.
absl::Status CheckImages(const EvalOptions& options, const CaptionSet& set) {
  const std::vector<int> lines = FirstLines(set);
  std::vector<std::string> problems;
  for (size_t i = 0; i < set.images.size(); ++i) {
    std::error_code error;
    const std::filesystem::path path =
        std::filesystem::path(options.images) / set.images[i];
    if (!std::filesystem::is_regular_file(path, error)) {
      problems.push_back(absl::StrCat("line ", lines[i], " names ",
                                      set.images[i], ", which is no file in ",
                                      options.images));
    }
  }
  return CannotBeUsed(options.captions, problems);
}

absl::StatusOr<std::string> ChooseModel(const EvalOptions& options,
                                        Client& client) {
  if (options.collection.empty()) return options.model;
  const auto collection = client.GetCollection(options.collection);
  if (!collection.ok()) return collection.status();
  return collection->model();
}

absl::StatusOr<EmbeddedInputs> EmbedImages(const EvalOptions& options,
                                           const std::string& model,
                                           const CaptionSet& set,
                                           Client& client, Console& console) {
  const auto count = static_cast<int64_t>(set.images.size());
  const int64_t max_bytes = MaxMediaBytes(client);
  const auto make_input = [&](int64_t i) -> absl::StatusOr<v1::Input> {
    auto bytes = ReadFile(std::filesystem::path(options.images) /
                              set.images[static_cast<size_t>(i)],
                          max_bytes);
    if (!bytes.ok()) return bytes.status();
    v1::Input input;
    input.mutable_image()->set_content(*std::move(bytes));
    return input;
  };
  Progress progress(&console, "Embedding pictures", count);
  auto embedded = EmbedInputs(client, {.model = model, .batch = kImagesPerCall},
                              count, make_input, progress);
  if (!embedded.ok()) return embedded.status();
  const std::vector<int> lines = FirstLines(set);
  std::vector<std::string> problems;
  for (size_t i = 0; i < set.images.size(); ++i) {
    if (embedded->statuses[i].ok()) continue;
    problems.push_back(absl::StrCat("line ", lines[i], ", ", set.images[i],
                                    ": ", embedded->statuses[i].message()));
  }
  if (absl::Status status = CannotBeUsed(options.captions, problems);
      !status.ok()) {
    return status;
  }
  return embedded;
}

absl::StatusOr<EmbeddedInputs> EmbedCaptions(const EvalOptions& options,
                                             const std::string& model,
                                             const CaptionSet& set,
                                             Client& client, Console& console) {
  const auto count = static_cast<int64_t>(set.captions.size());
  const auto make_input = [&set](int64_t i) -> absl::StatusOr<v1::Input> {
    v1::Input input;
    input.set_text(set.captions[static_cast<size_t>(i)].text);
    return input;
  };
  Progress progress(&console, "Embedding captions", count);
  auto embedded =
      EmbedInputs(client, {.model = model, .batch = kCaptionsPerCall}, count,
                  make_input, progress);
  if (!embedded.ok()) return embedded.status();
  std::vector<std::string> problems;
  for (size_t i = 0; i < set.captions.size(); ++i) {
    if (embedded->statuses[i].ok()) continue;
    problems.push_back(absl::StrCat("line ", set.captions[i].line, ": ",
                                    embedded->statuses[i].message()));
  }
  if (absl::Status status = CannotBeUsed(options.captions, problems);
      !status.ok()) {
    return status;
  }
  return embedded;
}

absl::StatusOr<Evaluation> Evaluate(const EvalOptions& options,
                                    const CaptionSet& set, Client& client,
                                    Console& console) {
  const auto model = ChooseModel(options, client);
  if (!model.ok()) return model.status();
  const auto images = EmbedImages(options, *model, set, client, console);
  if (!images.ok()) return images.status();
  const auto captions = EmbedCaptions(options, *model, set, client, console);
  if (!captions.ok()) return captions.status();
  if (images->dimension != captions->dimension) {
    return absl::InternalError(absl::StrCat("pictures have ", images->dimension,
                                            " dimensions and captions ",
                                            captions->dimension));
  }
  std::vector<int64_t> image_of_caption;
  image_of_caption.reserve(set.captions.size());
  for (const auto& caption : set.captions) {
    image_of_caption.push_back(caption.image);
  }
  const auto ranks = RankAll(images->rows, captions->rows, images->dimension,
                             image_of_caption);
  if (!ranks.ok()) return ranks.status();
  return Evaluation{Summarize(*ranks), set.images.size(), set.captions.size(),
                    captions->truncated, images->model};
}

// Four decimals: more would only show how numbers are stored.
double Rounded(double value) {
  return std::strtod(absl::StrFormat("%.4f", value).c_str(), nullptr);
}

Json ToJson(const DirectionMetrics& metrics) {
  return {{"r1", Rounded(metrics.recall_at_1)},
          {"r5", Rounded(metrics.recall_at_5)},
          {"r10", Rounded(metrics.recall_at_10)},
          {"mdr", Rounded(metrics.median_rank)}};
}

void PrintJson(const Evaluation& evaluation, Console& console) {
  console.out << Dump({{"t2i", ToJson(evaluation.metrics.text_to_image)},
                       {"i2t", ToJson(evaluation.metrics.image_to_text)},
                       {"rsum", Rounded(evaluation.metrics.recall_sum)},
                       {"images", evaluation.images},
                       {"captions", evaluation.captions}});
}

void AddRow(const std::string& name, const DirectionMetrics& metrics,
            Table& table) {
  table.AddRow({name, absl::StrFormat("%.1f", metrics.recall_at_1),
                absl::StrFormat("%.1f", metrics.recall_at_5),
                absl::StrFormat("%.1f", metrics.recall_at_10),
                absl::StrFormat("%g", metrics.median_rank)});
}

void PrintTable(const Evaluation& evaluation, Console& console) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{""},
               {"R@1", kRight},
               {"R@5", kRight},
               {"R@10", kRight},
               {"median rank", kRight}});
  AddRow("text to image", evaluation.metrics.text_to_image, table);
  AddRow("image to text", evaluation.metrics.image_to_text, table);
  console.out << table.Format(console.out_width)
              << absl::StrFormat("rSum %.1f; %d images, %d captions, model ",
                                 evaluation.metrics.recall_sum,
                                 evaluation.images, evaluation.captions)
              << TerminalSafe(evaluation.model.name()) << " "
              << TerminalSafe(evaluation.model.version()) << "\n";
}

absl::StatusOr<ExitCode> RunRerank(const EvalOptions& options,
                                   const CaptionSet& set, Client& client,
                                   Console& console) {
  const absl::StatusOr<RerankEvaluation> evaluation =
      EvaluateRerank(options.collection, options.rerank, set, client, console);
  if (!evaluation.ok()) return evaluation.status();
  if (evaluation->degraded > 0) {
    console.err << "quern: " << evaluation->degraded
                << " searches were degraded: some pictures have no parts, or "
                   "time was short\n";
  }
  if (options.json) {
    console.out << Dump({{"t2i", ToJson(evaluation->coarse)},
                         {"t2i_reranked", ToJson(evaluation->reranked)},
                         {"stage", evaluation->stage},
                         {"captions", set.captions.size()}});
    return ExitCode::kOk;
  }
  constexpr auto kRight = Table::Align::kRight;
  Table table({{""},
               {"R@1", kRight},
               {"R@5", kRight},
               {"R@10", kRight},
               {"median rank", kRight}});
  AddRow("text to image", evaluation->coarse, table);
  AddRow(absl::StrCat("by ", evaluation->stage), evaluation->reranked, table);
  console.out << table.Format(console.out_width)
              << absl::StrFormat("%d captions, model ", set.captions.size())
              << TerminalSafe(evaluation->model.name()) << " "
              << TerminalSafe(evaluation->model.version()) << "\n";
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RunEval(const EvalOptions& options,
                                 const ConnectionOptions& connection_options,
                                 Console& console) {
  if (!options.rerank.method.empty() && options.collection.empty()) {
    return UsageError("--rerank needs --collection, where the pictures are");
  }
  const absl::StatusOr<CaptionSet> set = ReadCaptions(options.captions);
  if (!set.ok()) return set.status();
  for (const std::string& warning : set->warnings) {
    console.err << "quern: " << TerminalSafe(options.captions) << ": "
                << warning << "\n";
  }
  if (absl::Status status = CheckImages(options, *set); !status.ok()) {
    return status;
  }
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  if (!options.rerank.method.empty()) {
    return RunRerank(options, *set, (*connection)->client(), console);
  }
  const absl::StatusOr<Evaluation> evaluation =
      Evaluate(options, *set, (*connection)->client(), console);
  if (!evaluation.ok()) return evaluation.status();
  if (evaluation->truncated > 0) {
    console.err << "quern: " << evaluation->truncated
                << " captions are longer than the model reads: their ends did "
                   "not count\n";
  }
  if (options.json) {
    PrintJson(*evaluation, console);
  } else {
    PrintTable(*evaluation, console);
  }
  return ExitCode::kOk;
}

}  // namespace

CLI::Option* AddEvalFiles(CLI::App& command, EvalFiles& files) {
  command.add_option("--ground-truth", files.ground_truth, "What is right")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE");
  command.add_flag("--allow-missing", files.allow_missing,
                   "Measures the queries that both files have");
  command.add_flag("--json", files.json, "Prints JSON instead of a table");
  return command
      .add_option("--predictions", files.predictions, "What was found")
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE");
}

void AddMediaSource(CLI::App& command, const std::string& name,
                    AskOptions& options, CLI::Option* predictions) {
  CLI::Option* folder =
      command
          .add_option(name, options.folder,
                      "Asks the server about the files in this folder instead")
          ->excludes(predictions)
          ->check(CLI::ExistingDirectory.description(""))
          ->type_name("DIR");
  command
      .add_option("--model", options.model,
                  "What to measure. Default: the server's default model")
      ->needs(folder)
      ->check(CheckUtf8)
      ->type_name("NAME");
  command
      .add_option("--collection", options.collection,
                  "Asks the server about the stored items of this collection "
                  "instead, whose ids are the files' names: what it keeps of "
                  "them is measured")
      ->excludes(folder)
      ->excludes(predictions)
      ->check(CheckUtf8)
      ->type_name("NAME");
}

absl::Status CheckSource(const EvalFiles& files, const AskOptions& ask,
                         const std::string& name) {
  if (!files.predictions.empty() || !ask.folder.empty() ||
      !ask.collection.empty()) {
    return absl::OkStatus();
  }
  return UsageError(absl::StrCat("nothing to measure: name --predictions, or ",
                                 name, " or --collection to ask a server"));
}

void AddEvalCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<EvalOptions>();
  CLI::App* eval = app.add_subcommand("eval", "Measures a model on a test set");
  eval->fallthrough();
  eval->require_subcommand(1);
  AddEvalCorpusMoments(*eval, line);
  AddEvalGrounding(*eval, line);
  AddEvalMoments(*eval, line);
  CLI::App* command = eval->add_subcommand(
      "retrieval", "Recall of captions for pictures and back");
  command->fallthrough();
  command->footer(kFooter);
  command->add_option("--images", options->images, "The pictures' folder")
      ->required()
      ->check(CLI::ExistingDirectory.description(""))
      ->type_name("DIR");
  command
      ->add_option("--captions", options->captions,
                   "Lines of file, tab, caption")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE.tsv");
  CLI::Option* model =
      command
          ->add_option("--model", options->model,
                       "What to measure. Default: the server's default model")
          ->check(CheckUtf8)
          ->type_name("NAME");
  command
      ->add_option("--collection", options->collection,
                   "Measures the model of this collection")
      ->check(CheckUtf8)
      ->excludes(model)
      ->type_name("NAME");
  AddRerankOptions(*command, options->rerank);
  command->add_flag("--json", options->json, "Prints JSON instead of a table");
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return RunEval(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
