#include "client/cli/moment_files.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

#include "client/cli/json_lines.h"
#include "client/cli/query_match.h"

namespace quern::cli {
namespace {

using nlohmann::json;

// A day of video: far more than any test set's, and a bound on memory.
constexpr double kMaxDurationSeconds = 24 * 3600;
constexpr size_t kAnyLength = std::numeric_limits<size_t>::max();

absl::StatusOr<std::string> OptionalString(const json& object,
                                           const std::string& key) {
  if (!object.contains(key)) return std::string();
  return StringField(object, key);
}

absl::StatusOr<std::vector<Moment>> ReadTrueWindows(const json& object) {
  if (!object.contains("relevant_windows")) return std::vector<Moment>();
  const auto rows = RowsField(object, "relevant_windows", 2, 2);
  if (!rows.ok()) return rows.status();
  if (rows->empty()) {
    return absl::InvalidArgumentError("\"relevant_windows\" is empty");
  }
  std::vector<Moment> windows;
  windows.reserve(rows->size());
  for (const auto& row : *rows) windows.push_back({row[0], row[1]});
  return windows;
}

absl::StatusOr<std::vector<ClipScores>> ReadTrueSaliency(const json& object) {
  const auto duration = NumberField(object, "duration");
  if (!duration.ok()) return duration.status();
  if (*duration < kClipSeconds || *duration > kMaxDurationSeconds) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"duration\" is ", *duration, "; it must be ",
                     kClipSeconds, " to ", kMaxDurationSeconds, " seconds"));
  }
  const auto clips = NumbersField(object, "relevant_clip_ids");
  if (!clips.ok()) return clips.status();
  const auto scores =
      RowsField(object, "saliency_scores", kAnnotators, kAnnotators);
  if (!scores.ok()) return scores.status();
  if (clips->size() != scores->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", clips->size(), " \"relevant_clip_ids\" but ",
                     scores->size(), " \"saliency_scores\""));
  }
  std::vector<ClipScores> saliency(
      static_cast<size_t>(*duration / kClipSeconds), ClipScores{});
  for (size_t i = 0; i < clips->size(); ++i) {
    const double clip = (*clips)[i];
    if (clip < 0 || clip >= static_cast<double>(saliency.size()) ||
        clip != static_cast<double>(static_cast<int64_t>(clip))) {
      return absl::InvalidArgumentError(
          absl::StrCat("names clip ", clip, " in \"relevant_clip_ids\"; the ",
                       "video has clips 0 to ", saliency.size() - 1));
    }
    std::copy((*scores)[i].begin(), (*scores)[i].end(),
              saliency[static_cast<size_t>(clip)].begin());
  }
  return saliency;
}

absl::StatusOr<MomentTruth> ParseTruth(const json& object, int line) {
  MomentTruth truth;
  truth.line = line;
  auto qid = IdField(object, "qid");
  if (!qid.ok()) return qid.status();
  truth.qid = *std::move(qid);
  auto vid = OptionalString(object, "vid");
  if (!vid.ok()) return vid.status();
  truth.vid = *std::move(vid);
  auto query = OptionalString(object, "query");
  if (!query.ok()) return query.status();
  truth.query = *std::move(query);
  auto windows = ReadTrueWindows(object);
  if (!windows.ok()) return windows.status();
  truth.windows = *std::move(windows);
  if (!object.contains("relevant_clip_ids")) return truth;
  auto saliency = ReadTrueSaliency(object);
  if (!saliency.ok()) return saliency.status();
  truth.saliency = *std::move(saliency);
  return truth;
}

absl::StatusOr<MomentPrediction> ParsePrediction(const json& object, int line) {
  MomentPrediction prediction;
  prediction.line = line;
  auto qid = IdField(object, "qid");
  if (!qid.ok()) return qid.status();
  prediction.qid = *std::move(qid);
  if (object.contains("pred_relevant_windows")) {
    const auto rows = RowsField(object, "pred_relevant_windows", 3, kAnyLength);
    if (!rows.ok()) return rows.status();
    prediction.windows.emplace();
    for (const auto& row : *rows) {
      prediction.windows->push_back({{row[0], row[1]}, row[2]});
    }
  }
  if (object.contains("pred_saliency_scores")) {
    auto scores = NumbersField(object, "pred_saliency_scores");
    if (!scores.ok()) return scores.status();
    if (scores->empty()) {
      return absl::InvalidArgumentError("\"pred_saliency_scores\" is empty");
    }
    prediction.saliency = *std::move(scores);
  }
  return prediction;
}

// Reads a file whose lines each have a `qid` of their own.
template <typename Line>
absl::StatusOr<std::vector<Line>> ReadQueries(
    const std::filesystem::path& path,
    absl::StatusOr<Line> (*parse)(const json&, int)) {
  std::vector<Line> lines;
  std::map<std::string, int> line_of_qid;
  const absl::Status status =
      ReadJsonLines(path, [&](const json& object, int line) -> absl::Status {
        absl::StatusOr<Line> parsed = parse(object, line);
        if (!parsed.ok()) return parsed.status();
        const auto [same, is_new] = line_of_qid.emplace(parsed->qid, line);
        if (!is_new) {
          return absl::InvalidArgumentError(absl::StrCat(
              "repeats qid ", parsed->qid, " of line ", same->second));
        }
        lines.push_back(*std::move(parsed));
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return lines;
}

absl::Status Lacks(const std::string& file, int line, const std::string& key,
                   const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "line ", line, " of the ", file, " has no \"", key, "\", ", why));
}

absl::Status AddMoments(const MomentTruth& truth,
                        const MomentPrediction& prediction,
                        MomentTestSet& set) {
  if (!prediction.windows.has_value()) {
    return Lacks("predictions", prediction.line, "pred_relevant_windows",
                 "which the first line has");
  }
  if (truth.windows.empty()) {
    return Lacks("ground truth", truth.line, "relevant_windows",
                 "but its windows are predicted");
  }
  set.without_window += prediction.windows->empty() ? 1 : 0;
  set.moments.push_back({truth.windows, *prediction.windows});
  return absl::OkStatus();
}

absl::Status AddHighlights(const MomentTruth& truth,
                           const MomentPrediction& prediction,
                           MomentTestSet& set) {
  if (!prediction.saliency.has_value()) {
    return Lacks("predictions", prediction.line, "pred_saliency_scores",
                 "which the first line has");
  }
  if (!truth.saliency.has_value()) {
    return Lacks("ground truth", truth.line, "relevant_clip_ids",
                 "but its saliency is predicted");
  }
  set.highlights.push_back({*truth.saliency, *prediction.saliency});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<MomentTruth>> ReadMomentTruth(
    const std::filesystem::path& path) {
  return ReadQueries<MomentTruth>(path, ParseTruth);
}

absl::StatusOr<std::vector<MomentPrediction>> ReadMomentPredictions(
    const std::filesystem::path& path) {
  return ReadQueries<MomentPrediction>(path, ParsePrediction);
}

absl::StatusOr<MomentTestSet> MatchMoments(
    const std::vector<MomentTruth>& truth,
    const std::vector<MomentPrediction>& predictions, bool allow_missing) {
  std::map<std::string, const MomentTruth*> by_qid;
  std::vector<std::string> asked;
  asked.reserve(truth.size());
  for (const MomentTruth& query : truth) {
    by_qid.emplace(query.qid, &query);
    asked.push_back(query.qid);
  }
  std::vector<std::string> answered;
  answered.reserve(predictions.size());
  for (const MomentPrediction& prediction : predictions) {
    answered.push_back(prediction.qid);
  }
  if (absl::Status status = CheckSameQueries("qid", asked, answered);
      !status.ok() && !allow_missing) {
    return status;
  }
  MomentTestSet set;
  const MomentPrediction* first = nullptr;
  for (const MomentPrediction& prediction : predictions) {
    const auto found = by_qid.find(prediction.qid);
    if (found == by_qid.end()) continue;
    if (first == nullptr) first = &prediction;
    absl::Status status;
    if (first->windows.has_value()) {
      status = AddMoments(*found->second, prediction, set);
    }
    if (status.ok() && first->saliency.has_value()) {
      status = AddHighlights(*found->second, prediction, set);
    }
    if (!status.ok()) return status;
  }
  if (first == nullptr) {
    return absl::InvalidArgumentError("no query has a prediction");
  }
  if (set.moments.empty() && set.highlights.empty()) {
    return absl::InvalidArgumentError(
        "the predictions have neither \"pred_relevant_windows\" nor "
        "\"pred_saliency_scores\"");
  }
  return set;
}

}  // namespace quern::cli
