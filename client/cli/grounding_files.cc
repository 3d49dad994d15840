#include "client/cli/grounding_files.h"

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

bool IsGiven(const json& object, const std::string& key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

absl::StatusOr<std::optional<RegionBox>> OptionalBox(const json& object) {
  if (!IsGiven(object, "bbox")) return std::nullopt;
  const auto box = NumbersField(object, "bbox");
  if (!box.ok()) return box.status();
  if (box->size() != 4 || (*box)[2] < 0 || (*box)[3] < 0) {
    return absl::InvalidArgumentError(
        "\"bbox\" is not left, top, width and height");
  }
  return RegionBox{(*box)[0], (*box)[1], (*box)[2], (*box)[3]};
}

absl::StatusOr<std::optional<double>> OptionalNumber(const json& object,
                                                     const std::string& key) {
  if (!IsGiven(object, key)) return std::nullopt;
  const auto number = NumberField(object, key);
  if (!number.ok()) return number.status();
  return *number;
}

absl::StatusOr<std::optional<ImagePoint>> OptionalPoint(const json& object) {
  if (!IsGiven(object, "point")) return std::nullopt;
  const auto point = NumbersField(object, "point");
  if (!point.ok()) return point.status();
  if (point->size() != 2) {
    return absl::InvalidArgumentError("\"point\" is not two numbers");
  }
  return ImagePoint{(*point)[0], (*point)[1]};
}

// Adds the sentences of one reference.
absl::Status AddReference(const json& object,
                          std::vector<GroundingQuery>& queries) {
  GroundingQuery query;
  auto file = StringField(object, "file_name");
  if (!file.ok()) return file.status();
  query.file_name = *std::move(file);
  const auto box = OptionalBox(object);
  if (!box.ok()) return box.status();
  query.box = *box;
  const auto sentences = object.find("sentences");
  if (sentences == object.end() || !sentences->is_array()) {
    return absl::InvalidArgumentError("has no list \"sentences\"");
  }
  for (const json& sentence : *sentences) {
    if (!sentence.is_object()) {
      return absl::InvalidArgumentError("has a sentence that is no object");
    }
    auto id = IdField(sentence, "sent_id");
    if (!id.ok()) return id.status();
    auto text = StringField(sentence, "sent");
    if (!text.ok()) return text.status();
    query.sent_id = *std::move(id);
    query.sentence = *std::move(text);
    queries.push_back(query);
  }
  return absl::OkStatus();
}

struct Prediction {
  GroundingAnswer answer;
  double score = 0;
};

absl::StatusOr<Prediction> ParsePrediction(const json& object) {
  Prediction prediction;
  GroundingAnswer& answer = prediction.answer;
  auto id = IdField(object, "sent_id");
  if (!id.ok()) return id.status();
  answer.sent_id = *std::move(id);
  const auto box = OptionalBox(object);
  if (!box.ok()) return box.status();
  answer.box = *box;
  const auto score = OptionalNumber(object, "score");
  if (!score.ok()) return score.status();
  const auto point = OptionalPoint(object);
  if (!point.ok()) return point.status();
  answer.point = *point;
  if (!answer.point && answer.box) answer.point = Centre(*answer.box);
  const auto presence = OptionalNumber(object, "presence");
  if (!presence.ok()) return presence.status();
  answer.presence = presence->has_value() ? *presence : *score;
  prediction.score = score->value_or(
      answer.box ? 0 : -std::numeric_limits<double>::infinity());
  return prediction;
}

// Calls `add` with each object of the list in the file.
template <typename Add>
absl::Status ForEachObject(const std::filesystem::path& path, const Add& add) {
  const auto list = ReadJsonFile(path);
  if (!list.ok()) return list.status();
  if (!list->is_array() || list->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is not a list of objects"));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const json& object = (*list)[i];
    const absl::Status status =
        object.is_object() ? add(object)
                           : absl::InvalidArgumentError("is no object");
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path.string(), ": entry ", i + 1, " ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<GroundingQuery>> ReadGroundingQueries(
    const std::filesystem::path& path) {
  std::vector<GroundingQuery> queries;
  const absl::Status status = ForEachObject(
      path, [&](const json& object) { return AddReference(object, queries); });
  if (!status.ok()) return status;
  std::map<std::string, const GroundingQuery*> known;
  for (const GroundingQuery& query : queries) {
    if (known.emplace(query.sent_id, &query).second) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        path.string(), ": sent_id ", query.sent_id, " is there twice"));
  }
  if (queries.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has no sentence"));
  }
  return queries;
}

absl::StatusOr<std::vector<GroundingAnswer>> ReadGroundingAnswers(
    const std::filesystem::path& path) {
  std::vector<Prediction> best;
  std::map<std::string, size_t> place_of_id;
  const absl::Status status =
      ForEachObject(path, [&](const json& object) -> absl::Status {
        auto prediction = ParsePrediction(object);
        if (!prediction.ok()) return prediction.status();
        const auto [place, is_new] =
            place_of_id.emplace(prediction->answer.sent_id, best.size());
        if (is_new) {
          best.push_back(*std::move(prediction));
        } else if (prediction->score > best[place->second].score) {
          best[place->second] = *std::move(prediction);
        }
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  std::vector<GroundingAnswer> answers;
  answers.reserve(best.size());
  for (Prediction& prediction : best) {
    answers.push_back(std::move(prediction.answer));
  }
  return answers;
}

absl::StatusOr<GroundingTestSet> MatchGrounding(
    const std::vector<GroundingQuery>& queries,
    const std::vector<GroundingAnswer>& answers, bool allow_missing) {
  std::map<std::string, const GroundingAnswer*> by_id;
  std::vector<std::string> answered;
  answered.reserve(answers.size());
  for (const GroundingAnswer& answer : answers) {
    by_id.emplace(answer.sent_id, &answer);
    answered.push_back(answer.sent_id);
  }
  GroundingTestSet set;
  std::vector<std::string> asked;
  asked.reserve(queries.size());
  bool has_absent = false;
  bool has_presence = true;
  for (const GroundingQuery& query : queries) {
    asked.push_back(query.sent_id);
    const auto found = by_id.find(query.sent_id);
    if (found == by_id.end()) continue;
    const GroundingAnswer& answer = *found->second;
    has_absent = has_absent || !query.box;
    has_presence = has_presence && answer.presence;
    set.presence.push_back(
        {answer.presence.value_or(0), query.box.has_value()});
    if (query.box) {
      set.regions.push_back({*query.box, answer.box, answer.point});
    }
  }
  const absl::Status status = CheckSameQueries("sent_id", asked, answered);
  if (!status.ok() && !allow_missing) return status;
  if (set.presence.empty()) {
    return absl::InvalidArgumentError("no query has a prediction");
  }
  if (!has_absent || !has_presence) set.presence.clear();
  return set;
}

}  // namespace quern::cli
