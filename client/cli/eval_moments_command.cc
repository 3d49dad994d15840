#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/eval_commands.h"
#include "client/cli/json_format.h"
#include "client/cli/moment_files.h"
#include "client/cli/moment_metrics.h"
#include "client/cli/table.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Reads the files of QVHighlights and prints the figures of its official
evaluation under their official names, in percent.

A line of the ground truth:
  {"qid": 7, "vid": "a", "query": "a dog jumps", "duration": 150,
   "relevant_windows": [[10, 24]], "relevant_clip_ids": [5, 6],
   "saliency_scores": [[4, 3, 4], [2, 2, 3]]}
A line of the predictions, best window first:
  {"qid": 7, "pred_relevant_windows": [[8, 22, 0.91], [40, 60, 0.12]],
   "pred_saliency_scores": [0.1, 0.4, ...]}
Windows are start, end and score, in seconds; saliency has a score for each clip
of 2 seconds. Predictions may have windows, saliency or both, in every line what
the first line has.

  MR-full-R1@IoU    the first window fits the true window that it overlaps most
  MR-full-mAP       mean AP of the first ten windows, IoU 0.5 to 0.95
  MR-short-mAP ...  true windows of up to 10 s, 10 to 30 s, 30 to 150 s
  HL-min-...        clips that are Fair (2), Good (3) or VeryGood (4): mean AP,
                    and how often the best clip is one
A figure without a query is left out of the table and null in JSON. An empty list
of windows counts as missed.

Example:
  quern eval moments --ground-truth highlight_val_release.jsonl \
      --predictions predictions.jsonl --json

Exit status: 0 all good; 1 a file or line cannot be used; 2 wrong usage.)";

struct Options {
  std::string ground_truth;
  std::string predictions;
  bool allow_missing = false;
  bool json = false;
};

struct Figure {
  std::string name;
  std::optional<double> percent;
};

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

void PrintJson(const std::vector<Figure>& figures, Console& console) {
  Json json = Json::object();
  for (const auto& [name, percent] : figures) {
    json[name] = percent.has_value() ? Json(*percent) : Json(nullptr);
  }
  console.out << Dump(json);
}

void PrintTable(const std::vector<Figure>& figures, Console& console) {
  Table table({{"figure"}, {"percent", Table::Align::kRight}});
  for (const auto& [name, percent] : figures) {
    if (percent.has_value()) {
      table.AddRow({name, absl::StrFormat("%.2f", *percent)});
    }
  }
  console.out << table.Format(console.out_width);
}

absl::StatusOr<ExitCode> Run(const Options& options, Console& console) {
  const auto truth = ReadMomentTruth(options.ground_truth);
  if (!truth.ok()) return truth.status();
  const auto predictions = ReadMomentPredictions(options.predictions);
  if (!predictions.ok()) return predictions.status();
  const auto set = MatchMoments(*truth, *predictions, options.allow_missing);
  if (!set.ok()) return set.status();
  if (set->without_window > 0) {
    console.err << "quern: " << set->without_window << " of "
                << set->moments.size()
                << " queries have no predicted window: they count as missed\n";
  }
  const std::vector<Figure> figures = Measure(*set);
  if (options.json) {
    PrintJson(figures, console);
  } else {
    PrintTable(figures, console);
  }
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
  command
      ->add_option("--ground-truth", options->ground_truth,
                   "What is right: a QVHighlights annotation file")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE.jsonl");
  command
      ->add_option("--predictions", options->predictions,
                   "What was found: a QVHighlights prediction file")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE.jsonl");
  command->add_flag("--allow-missing", options->allow_missing,
                    "Measures the queries that both files have");
  command->add_flag("--json", options->json, "Prints JSON instead of a table");
  command->callback([options, &line] {
    line.run = [options](Console& console) { return Run(*options, console); };
  });
}

}  // namespace quern::cli
