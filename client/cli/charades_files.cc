#include "client/cli/charades_files.h"

#include <cerrno>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

#include "client/cli/captions.h"
#include "client/cli/json_lines.h"
#include "client/cli/query_match.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

// What both files call a query: the video and the sentence.
std::string Key(const std::string& vid, const std::string& sentence) {
  return absl::StrCat(vid, " \"", sentence, "\"");
}

// Empty, or what is wrong with the line.
std::string ParseLine(absl::string_view text, CharadesQuery& query) {
  if (!IsValidUtf8(text)) return "is not UTF-8";
  const std::vector<absl::string_view> halves =
      absl::StrSplit(text, absl::MaxSplits("##", 1));
  if (halves.size() != 2) return "has no ## before the sentence";
  const std::vector<absl::string_view> words =
      absl::StrSplit(halves[0], absl::ByAnyChar(" \t"), absl::SkipEmpty());
  Moment& moment = query.moment;
  if (words.size() != 3 || !absl::SimpleAtod(words[1], &moment.start) ||
      !absl::SimpleAtod(words[2], &moment.end) ||
      !std::isfinite(moment.start) || !std::isfinite(moment.end)) {
    return "does not begin with video, start and end";
  }
  query.vid = std::string(words[0]);
  query.sentence = std::string(absl::StripAsciiWhitespace(halves[1]));
  return query.sentence.empty() ? "has no sentence" : "";
}

using Answers = std::map<std::string, std::optional<Moment>>;

absl::Status AddPrediction(const nlohmann::json& object, Answers& answers) {
  const auto vid = StringField(object, "vid");
  if (!vid.ok()) return vid.status();
  const auto query = StringField(object, "query");
  if (!query.ok()) return query.status();
  const auto windows = RowsField(object, "pred_relevant_windows", 2,
                                 std::numeric_limits<size_t>::max());
  if (!windows.ok()) return windows.status();
  std::optional<Moment> best;
  if (!windows->empty()) {
    best = Moment{windows->front()[0], windows->front()[1]};
  }
  const std::string key =
      Key(*vid, std::string(absl::StripAsciiWhitespace(*query)));
  if (!answers.emplace(key, best).second) {
    return absl::InvalidArgumentError(absl::StrCat("repeats ", key));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<CharadesQuery>> ReadCharades(
    const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return absl::ErrnoToStatus(errno, path.string());
  std::vector<CharadesQuery> queries;
  std::vector<std::string> problems;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    CharadesQuery query;
    const std::string problem = ParseLine(text, query);
    if (!problem.empty()) {
      problems.push_back(absl::StrCat("line ", line, " ", problem));
    }
    queries.push_back(std::move(query));
  }
  if (file.bad()) return absl::ErrnoToStatus(EIO, path.string());
  if (queries.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is empty"));
  }
  if (problems.empty()) return queries;
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ": ", ListProblems(problems)));
}

absl::StatusOr<std::vector<SingleMomentCase>> ReadCharadesPredictions(
    const std::filesystem::path& path,
    const std::vector<CharadesQuery>& queries, bool allow_missing) {
  Answers answers;
  absl::Status status =
      ReadJsonLines(path, [&answers](const nlohmann::json& object, int) {
        return AddPrediction(object, answers);
      });
  if (!status.ok()) return status;
  std::vector<std::string> asked;
  std::vector<std::string> answered;
  std::vector<SingleMomentCase> cases;
  answered.reserve(answers.size());
  for (const auto& [key, moment] : answers) answered.push_back(key);
  asked.reserve(queries.size());
  for (const CharadesQuery& query : queries) {
    asked.push_back(Key(query.vid, query.sentence));
    const auto found = answers.find(asked.back());
    if (found != answers.end()) cases.push_back({query.moment, found->second});
  }
  status = CheckSameQueries("query", asked, answered);
  if (!status.ok() && !allow_missing) return status;
  if (cases.empty()) {
    return absl::InvalidArgumentError("no query has a prediction");
  }
  return cases;
}

}  // namespace quern::cli
