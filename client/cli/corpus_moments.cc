#include "client/cli/corpus_moments.h"

#include <algorithm>
#include <cmath>
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

float Iou(const CorpusMoment& a, const CorpusMoment& b) {
  if (a.video != b.video) return 0;
  const float both =
      std::max(0.0F, std::min(a.end, b.end) - std::max(a.start, b.start));
  const float hull = std::max(a.end, b.end) - std::min(a.start, b.start);
  return hull == 0 ? 0 : both / hull;
}

struct Truth {
  std::string desc_id;
  std::string vid_name;
  CorpusMoment moment;
};

absl::StatusOr<Truth> ParseTruth(const json& object) {
  Truth truth;
  auto id = IdField(object, "desc_id");
  if (!id.ok()) return id.status();
  truth.desc_id = *std::move(id);
  auto name = StringField(object, "vid_name");
  if (!name.ok()) return name.status();
  truth.vid_name = *std::move(name);
  const auto moment = NumbersField(object, "ts");
  if (!moment.ok()) return moment.status();
  if (moment->size() != 2) {
    return absl::InvalidArgumentError("\"ts\" is not start and end");
  }
  truth.moment.start = static_cast<float>((*moment)[0]);
  truth.moment.end = static_cast<float>((*moment)[1]);
  return truth;
}

absl::StatusOr<std::vector<Truth>> ReadTruth(
    const std::filesystem::path& path) {
  std::vector<Truth> truths;
  std::map<std::string, int> line_of_id;
  const absl::Status status =
      ReadJsonLines(path, [&](const json& object, int line) -> absl::Status {
        auto truth = ParseTruth(object);
        if (!truth.ok()) return truth.status();
        const auto [same, is_new] = line_of_id.emplace(truth->desc_id, line);
        if (!is_new) {
          return absl::InvalidArgumentError(absl::StrCat(
              "repeats desc_id ", truth->desc_id, " of line ", same->second));
        }
        truths.push_back(*std::move(truth));
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return truths;
}

struct Predictions {
  std::map<std::string, int64_t> number_of_video;
  std::map<std::string, std::vector<CorpusMoment>> by_desc_id;
};

absl::Status ReadVideos(const json& file, Predictions& predictions) {
  const auto videos = file.find("video2idx");
  if (videos == file.end() || !videos->is_object()) {
    return absl::InvalidArgumentError("has no object \"video2idx\"");
  }
  for (const auto& [name, number] : videos->items()) {
    if (!number.is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"video2idx\" has no whole number for ", name));
    }
    predictions.number_of_video[name] = number.get<int64_t>();
  }
  return absl::OkStatus();
}

absl::Status ReadPrediction(const json& object, Predictions& predictions) {
  const auto id = IdField(object, "desc_id");
  if (!id.ok()) return id.status();
  const auto rows =
      RowsField(object, "predictions", 3, std::numeric_limits<size_t>::max());
  if (!rows.ok()) return rows.status();
  std::vector<CorpusMoment> moments;
  moments.reserve(rows->size());
  for (const auto& row : *rows) {
    moments.push_back({std::llround(row[0]), static_cast<float>(row[1]),
                       static_cast<float>(row[2])});
  }
  if (!predictions.by_desc_id.emplace(*id, std::move(moments)).second) {
    return absl::InvalidArgumentError(absl::StrCat("repeats desc_id ", *id));
  }
  return absl::OkStatus();
}

absl::StatusOr<Predictions> ParsePredictions(const json& file) {
  Predictions predictions;
  if (!file.is_object()) return absl::InvalidArgumentError("is no JSON object");
  if (absl::Status status = ReadVideos(file, predictions); !status.ok()) {
    return status;
  }
  const auto list = file.find("VCMR");
  if (list == file.end() || !list->is_array()) {
    return absl::InvalidArgumentError("has no list \"VCMR\"");
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const json& object = (*list)[i];
    const absl::Status status =
        object.is_object() ? ReadPrediction(object, predictions)
                           : absl::InvalidArgumentError("is no object");
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", i + 1, " of \"VCMR\" ", status.message()));
    }
  }
  return predictions;
}

}  // namespace

double CorpusRecall(absl::Span<const CorpusMomentCase> cases, float iou,
                    size_t k) {
  constexpr size_t kMaxPredictions = 100;
  double found = 0;
  for (const CorpusMomentCase& query : cases) {
    const auto first = absl::MakeConstSpan(query.predicted)
                           .subspan(0, std::min(k, kMaxPredictions));
    if (std::any_of(first.begin(), first.end(), [&](const CorpusMoment& m) {
          return Iou(m, query.truth) >= iou;
        })) {
      ++found;
    }
  }
  // Rounded as NumPy rounds, not as printing does.
  const double percent = found / static_cast<double>(cases.size()) * 100;
  return std::nearbyint(percent * 100) / 100;
}

absl::StatusOr<std::vector<CorpusMomentCase>> ReadCorpusMoments(
    const std::filesystem::path& truth,
    const std::filesystem::path& predictions, bool allow_missing) {
  const auto truths = ReadTruth(truth);
  if (!truths.ok()) return truths.status();
  const auto file = ReadJsonFile(predictions);
  if (!file.ok()) return file.status();
  const auto parsed = ParsePredictions(*file);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(predictions.string(), " ", parsed.status().message()));
  }
  std::vector<std::string> asked;
  std::vector<std::string> answered;
  answered.reserve(parsed->by_desc_id.size());
  for (const auto& [id, moments] : parsed->by_desc_id) answered.push_back(id);
  std::vector<CorpusMomentCase> cases;
  asked.reserve(truths->size());
  for (const Truth& query : *truths) {
    asked.push_back(query.desc_id);
    const auto found = parsed->by_desc_id.find(query.desc_id);
    if (found == parsed->by_desc_id.end()) continue;
    CorpusMoment moment = query.moment;
    const auto video = parsed->number_of_video.find(query.vid_name);
    if (video == parsed->number_of_video.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(predictions.string(), " has no \"video2idx\" for ",
                       query.vid_name, " of desc_id ", query.desc_id));
    }
    moment.video = video->second;
    cases.push_back({moment, found->second});
  }
  const absl::Status status = CheckSameQueries("desc_id", asked, answered);
  if (!status.ok() && !allow_missing) return status;
  if (cases.empty()) {
    return absl::InvalidArgumentError("no query has a prediction");
  }
  return cases;
}

}  // namespace quern::cli
