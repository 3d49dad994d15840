#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "client/cli/ask_server.h"
#include "client/cli/eval_commands.h"
#include "client/cli/eval_figures.h"
#include "client/cli/grounding_files.h"
#include "client/cli/region_metrics.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Measures the boxes that a server finds for phrases, or those of a file.

The ground truth is a JSON list as RefCOCO's, boxes in pixels:
  [{"file_name": "a.jpg", "bbox": [left, top, width, height],
    "sentences": [{"sent_id": 1, "sent": "the dog on the left"}]}, ...]
Without a "bbox" the sentence speaks of nothing in the picture. Predictions:
  [{"sent_id": 1, "bbox": [10, 20, 80, 60], "score": 0.7}, ...]
Of several the best score counts. "bbox": null finds nothing. "point": [x, y] is
where to look, else the box's centre; "presence" how likely the phrase is there,
else the score.

  Acc@0.5      boxes whose IoU with the true box is 0.5 or more, in percent
  pointing     points inside the true box
  presence-AP  average precision of presence, where some sentences have no box

Examples:
  quern eval grounding --ground-truth scenes.json --images scenes
  quern index scenes --collection scenes --parts 7x7
  quern eval grounding --ground-truth scenes.json --collection scenes
  quern eval grounding --ground-truth refs.json --predictions boxes.json --json

Exit status: 0 all good; 1 the server failed, or a file or line cannot be used;
2 wrong usage; 130 interrupted.)";

struct Options {
  EvalFiles files;
  AskOptions ask;
};

absl::StatusOr<std::vector<GroundingAnswer>> AskServer(
    const Options& options, const std::vector<GroundingQuery>& queries,
    const ConnectionOptions& connection_options, Console& console) {
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  std::vector<PictureQuestion> questions;
  questions.reserve(queries.size());
  for (const GroundingQuery& query : queries) {
    questions.push_back({query.file_name, query.sentence});
  }
  const auto found =
      AskPictures((*connection)->client(), options.ask, questions, console);
  if (!found.ok()) return found.status();
  std::vector<GroundingAnswer> answers;
  answers.reserve(queries.size());
  for (size_t i = 0; i < queries.size(); ++i) {
    GroundingAnswer answer{queries[i].sent_id, (*found)[i].box, std::nullopt,
                           (*found)[i].presence};
    if (answer.box) answer.point = Centre(*answer.box);
    answers.push_back(std::move(answer));
  }
  return answers;
}

absl::StatusOr<ExitCode> Run(const Options& options,
                             const ConnectionOptions& connection,
                             Console& console) {
  if (absl::Status status = CheckSource(options.files, options.ask, "--images");
      !status.ok()) {
    return status;
  }
  const auto queries = ReadGroundingQueries(options.files.ground_truth);
  if (!queries.ok()) return queries.status();
  const auto answers = options.files.predictions.empty()
                           ? AskServer(options, *queries, connection, console)
                           : ReadGroundingAnswers(options.files.predictions);
  if (!answers.ok()) return answers.status();
  const auto set =
      MatchGrounding(*queries, *answers, options.files.allow_missing);
  if (!set.ok()) return set.status();
  std::vector<Figure> figures = {{"Acc@0.5", std::nullopt},
                                 {"pointing", std::nullopt}};
  if (!set->regions.empty()) {
    const RegionFigures measured = MeasureRegions(set->regions);
    figures = {{"Acc@0.5", measured.accuracy_at_50},
               {"pointing", measured.pointing}};
  }
  if (!set->presence.empty()) {
    figures.push_back({"presence-AP", PresenceAp(set->presence)});
  }
  PrintFigures(figures, options.files.json, console);
  return ExitCode::kOk;
}

}  // namespace

void AddEvalGrounding(CLI::App& eval, CommandLine& line) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      eval.add_subcommand("grounding", "Regions of pictures found by phrases");
  command->fallthrough();
  command->footer(kFooter);
  CLI::Option* predictions = AddEvalFiles(*command, options->files);
  AddMediaSource(*command, "--images", options->ask, predictions);
  command
      ->add_flag("--ignore-relations", options->ask.ignore_relations,
                 "Asks for \"the dog left of the man\" without the relation")
      ->excludes(predictions);
  command
      ->add_option("--crop-depth", options->ask.crop_depth,
                   "Best boxes whose crops the model looks at again, 0 to 64")
      ->check(CLI::Range(0, 64).description(""))
      ->excludes(predictions)
      ->type_name("N");
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return Run(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
