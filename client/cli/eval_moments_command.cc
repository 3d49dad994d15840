#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <CLI/CLI.hpp>

#include "client/cli/ask_server.h"
#include "client/cli/charades_files.h"
#include "client/cli/eval_commands.h"
#include "client/cli/eval_figures.h"
#include "client/cli/moment_files.h"
#include "client/cli/moment_metrics.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Reads the files of QVHighlights and prints the figures of its official
evaluation under their official names, in percent. Measures what a server finds
in a folder of videos, or a file of predictions.

A line of the ground truth:
  {"qid": 7, "vid": "a", "query": "a dog jumps", "duration": 150,
   "relevant_windows": [[10, 24]], "relevant_clip_ids": [5, 6],
   "saliency_scores": [[4, 3, 4], [2, 2, 3]]}
A line of the predictions, best window first:
  {"qid": 7, "pred_relevant_windows": [[8, 22, 0.91], [40, 60, 0.12]],
   "pred_saliency_scores": [0.1, 0.4, ...]}
Windows are start, end and score, in seconds; saliency has a score for each clip
of 2 seconds. Predictions may have windows, saliency or both, in every line what
the first line has. "vid" names a video of the folder.

  MR-full-R1@IoU    the first window fits the true window that it overlaps most
  MR-full-mAP       mean AP of the first ten windows, IoU 0.5 to 0.95
  MR-short-mAP ...  true windows of up to 10 s, 10 to 30 s, 30 to 150 s
  HL-min-...        clips that are Fair (2), Good (3) or VeryGood (4): mean AP,
                    and how often the best clip is one
A figure without a query is left out of the table and null in JSON. An empty list
of windows counts as missed.

A ground truth whose name ends in .txt is read as Charades-STA, one line a query:
  VIDEO START END##SENTENCE
and its predictions as lines of
  {"vid": "VIDEO", "query": "SENTENCE", "pred_relevant_windows": [[0, 4.2]]}
  R1@IoU   the first window's IoU is 0.3, 0.5 or 0.7 or more
  mIoU     mean IoU of the first window

Examples:
  quern eval moments --ground-truth highlight_val_release.jsonl \
      --predictions predictions.jsonl --json
  quern eval moments --ground-truth charades_sta_test.txt --videos Charades

Exit status: 0 all good; 1 the server failed, or a file or line cannot be used;
2 wrong usage; 130 interrupted.)";

struct Options {
  EvalFiles files;
  AskOptions ask;
};

// Whether the predictions are a server's.
bool AsksServer(const Options& options) {
  return options.files.predictions.empty();
}

constexpr std::array<std::pair<const char*, double>, 3> kLevels = {
    {{"Fair", 2}, {"Good", 3}, {"VeryGood", 4}}};

// In the official order.
std::vector<Figure> Measure(const MomentTestSet& set) {
  std::vector<Figure> figures;
  if (!set.moments.empty()) {
    const MomentFigures measured = MeasureMoments(set.moments);
    figures = {{"MR-full-R1@0.5", measured.recall_at_50},
               {"MR-full-R1@0.7", measured.recall_at_70},
               {"MR-full-mAP", measured.map},
               {"MR-full-mAP@0.5", measured.map_at_50},
               {"MR-full-mAP@0.75", measured.map_at_75},
               {"MR-long-mAP", measured.map_long},
               {"MR-middle-mAP", measured.map_middle},
               {"MR-short-mAP", measured.map_short}};
  }
  if (set.highlights.empty()) return figures;
  for (const auto& [name, least_score] : kLevels) {
    const HighlightFigures measured =
        MeasureHighlights(set.highlights, least_score);
    const std::string prefix = absl::StrCat("HL-min-", name, "-");
    figures.push_back({prefix + "mAP", measured.map});
    figures.push_back({prefix + "Hit1", measured.hit_at_1});
  }
  return figures;
}

absl::StatusOr<std::vector<VideoAnswer>> AskServer(
    const Options& options, const std::vector<VideoQuestion>& questions,
    const ConnectionOptions& connection_options, Console& console) {
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  return AskVideos((*connection)->client(), options.ask, questions, console);
}

// The server's answers as if they had come in a file. Saliency counts only when
// every query has it, annotated and predicted.
absl::StatusOr<std::vector<MomentPrediction>> PredictMoments(
    const Options& options, const std::vector<MomentTruth>& truth,
    const ConnectionOptions& connection, Console& console) {
  std::vector<VideoQuestion> questions;
  questions.reserve(truth.size());
  bool has_saliency = true;
  for (const MomentTruth& query : truth) {
    if (query.vid.empty() || query.query.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.files.ground_truth, ": line ", query.line,
                       " has no \"vid\" or no \"query\" to ask about"));
    }
    questions.push_back({query.vid, query.query});
    has_saliency = has_saliency && query.saliency.has_value();
  }
  auto answers = AskServer(options, questions, connection, console);
  if (!answers.ok()) return answers.status();
  for (const VideoAnswer& answer : *answers) {
    has_saliency = has_saliency && !answer.saliency.empty();
  }
  std::vector<MomentPrediction> predictions;
  predictions.reserve(truth.size());
  for (size_t i = 0; i < truth.size(); ++i) {
    MomentPrediction prediction{truth[i].qid, truth[i].line,
                                std::move((*answers)[i].windows), std::nullopt};
    if (has_saliency) prediction.saliency = std::move((*answers)[i].saliency);
    predictions.push_back(std::move(prediction));
  }
  return predictions;
}

absl::StatusOr<std::vector<Figure>> MeasureQvHighlights(
    const Options& options, const ConnectionOptions& connection,
    Console& console) {
  const auto truth = ReadMomentTruth(options.files.ground_truth);
  if (!truth.ok()) return truth.status();
  const auto predictions =
      AsksServer(options) ? PredictMoments(options, *truth, connection, console)
                          : ReadMomentPredictions(options.files.predictions);
  if (!predictions.ok()) return predictions.status();
  const auto set =
      MatchMoments(*truth, *predictions, options.files.allow_missing);
  if (!set.ok()) return set.status();
  if (set->without_window > 0) {
    console.err << "quern: " << set->without_window << " of "
                << set->moments.size()
                << " queries have no predicted window: they count as missed\n";
  }
  return Measure(*set);
}

absl::StatusOr<std::vector<SingleMomentCase>> PredictCharades(
    const Options& options, const std::vector<CharadesQuery>& queries,
    const ConnectionOptions& connection, Console& console) {
  std::vector<VideoQuestion> questions;
  questions.reserve(queries.size());
  for (const CharadesQuery& query : queries) {
    questions.push_back({query.vid, query.sentence});
  }
  const auto answers = AskServer(options, questions, connection, console);
  if (!answers.ok()) return answers.status();
  std::vector<SingleMomentCase> cases;
  cases.reserve(queries.size());
  for (size_t i = 0; i < queries.size(); ++i) {
    const std::vector<ScoredMoment>& windows = (*answers)[i].windows;
    cases.push_back({queries[i].moment,
                     windows.empty()
                         ? std::nullopt
                         : std::optional<Moment>(windows.front().moment)});
  }
  return cases;
}

absl::StatusOr<std::vector<Figure>> MeasureCharades(
    const Options& options, const ConnectionOptions& connection,
    Console& console) {
  const auto queries = ReadCharades(options.files.ground_truth);
  if (!queries.ok()) return queries.status();
  const auto cases =
      AsksServer(options)
          ? PredictCharades(options, *queries, connection, console)
          : ReadCharadesPredictions(options.files.predictions, *queries,
                                    options.files.allow_missing);
  if (!cases.ok()) return cases.status();
  const SingleMomentFigures measured = MeasureSingleMoments(*cases);
  return std::vector<Figure>{{"R1@0.3", measured.recall_at_30},
                             {"R1@0.5", measured.recall_at_50},
                             {"R1@0.7", measured.recall_at_70},
                             {"mIoU", measured.mean_iou}};
}

absl::StatusOr<ExitCode> Run(const Options& options,
                             const ConnectionOptions& connection,
                             Console& console) {
  if (absl::Status status = CheckSource(options.files, options.ask, "--videos");
      !status.ok()) {
    return status;
  }
  const auto figures =
      absl::EndsWithIgnoreCase(options.files.ground_truth, ".txt")
          ? MeasureCharades(options, connection, console)
          : MeasureQvHighlights(options, connection, console);
  if (!figures.ok()) return figures.status();
  PrintFigures(*figures, options.files.json, console);
  return ExitCode::kOk;
}

}  // namespace

void AddEvalMoments(CLI::App& eval, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = eval.add_subcommand(
      "moments",
      "Moments and highlights found in videos, as QVHighlights does");
  command->fallthrough();
  command->footer(kFooter);
  AddMediaSource(*command, "--videos", options->ask,
                 AddEvalFiles(*command, options->files));
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return Run(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
