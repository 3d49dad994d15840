#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include <CLI/CLI.hpp>

#include "client/cli/corpus_moments.h"
#include "client/cli/eval_commands.h"
#include "client/cli/eval_figures.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Reads the files of TVR and prints the figures of its official evaluation of
VCMR: the share of queries, in percent, that have a right moment among the first
1, 5, 10 or 100. The video must match, and the IoU be 0.5 or 0.7 or more.

A line of the ground truth:
  {"desc_id": 7, "vid_name": "friends_s01e01", "ts": [8.2, 11.9]}
The predictions, best first:
  {"video2idx": {"friends_s01e01": 0},
   "VCMR": [{"desc_id": 7, "predictions": [[0, 8.0, 12.0, 0.91], ...]}]}

Example:
  quern eval corpus-moments --ground-truth tvr_val_release.jsonl \
      --predictions predictions.json --json

Exit status: 0 all good; 1 a file or line cannot be used; 2 wrong usage.)";

constexpr std::pair<const char*, float> kIous[] = {{"0.5", 0.5F},
                                                   {"0.7", 0.7F}};
constexpr size_t kRanks[] = {1, 5, 10, 100};

absl::StatusOr<ExitCode> Run(const EvalFiles& files, Console& console) {
  const auto cases = ReadCorpusMoments(files.ground_truth, files.predictions,
                                       files.allow_missing);
  if (!cases.ok()) return cases.status();
  std::vector<Figure> figures;
  for (const auto& [name, iou] : kIous) {
    for (const size_t k : kRanks) {
      figures.push_back(
          {absl::StrCat(name, "-r", k), CorpusRecall(*cases, iou, k)});
    }
  }
  PrintFigures(figures, files.json, console);
  return ExitCode::kOk;
}

}  // namespace

void AddEvalCorpusMoments(CLI::App& eval, CommandLine& line) {
  const auto files = std::make_shared<EvalFiles>();
  CLI::App* command = eval.add_subcommand(
      "corpus-moments", "Moments found in a collection of videos, as TVR does");
  command->fallthrough();
  command->footer(kFooter);
  AddEvalFiles(*command, *files)->required();
  command->callback([files, &line] {
    line.run = [files](Console& console) { return Run(*files, console); };
  });
}

}  // namespace quern::cli
