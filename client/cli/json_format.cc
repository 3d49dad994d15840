#include "client/cli/json_format.h"

#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/util/time_util.h"
#include "nlohmann/json.hpp"

#include "client/cli/place.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

// Deeper payloads are refused before they reach a recursive function.
constexpr int kMaxDepth = 64;

double Milliseconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e3 +
         static_cast<double>(duration.nanos()) / 1e6;
}

// A float as its shortest decimal form, not as the double next to it.
double Shortest(float value) {
  return std::strtod(absl::StrCat(value).c_str(), nullptr);
}

Json NumberToJson(double number) {
  constexpr double kExact = 9007199254740992;  // 2^53
  if (std::trunc(number) == number && std::abs(number) <= kExact) {
    return static_cast<int64_t>(number);
  }
  return number;
}

Json EvidenceToJson(const v1::Evidence& evidence, const v1::PartsInfo& parts) {
  Json json = {{"score", Shortest(evidence.score())}};
  if (evidence.has_probability()) {
    json["probability"] = Shortest(evidence.probability());
  }
  if (evidence.has_box()) {
    const v1::Box& box = evidence.box();
    json["box"] = {Shortest(box.left()), Shortest(box.top()),
                   Shortest(box.right()), Shortest(box.bottom())};
    if (parts.width() > 0 && parts.height() > 0) {
      const v1::PixelBox pixels = ToPixels(box, parts.width(), parts.height());
      json["pixels"] = {{"left", pixels.left()},
                        {"top", pixels.top()},
                        {"width", pixels.width()},
                        {"height", pixels.height()}};
    }
  }
  if (evidence.has_span()) {
    json["span_ms"] = {Milliseconds(evidence.span().start()),
                       Milliseconds(evidence.span().end())};
  }
  if (!evidence.phrase().empty()) json["phrase"] = evidence.phrase();
  return json;
}

Json ModelVersionToJson(const v1::ModelVersion& model) {
  return {{"name", model.name()},
          {"version", model.version()},
          {"fingerprint", model.fingerprint()}};
}

Value ValueFromJson(const Json& json);

Struct StructFromJson(const Json& json) {
  Struct result;
  for (const auto& [key, value] : json.items()) {
    (*result.mutable_fields())[key] = ValueFromJson(value);
  }
  return result;
}

Value ValueFromJson(const Json& json) {
  Value value;
  if (json.is_object()) {
    *value.mutable_struct_value() = StructFromJson(json);
  } else if (json.is_array()) {
    value.mutable_list_value();
    for (const Json& element : json) {
      *value.mutable_list_value()->add_values() = ValueFromJson(element);
    }
  } else if (json.is_string()) {
    value.set_string_value(json.get<std::string>());
  } else if (json.is_boolean()) {
    value.set_bool_value(json.get<bool>());
  } else if (json.is_number()) {
    value.set_number_value(json.get<double>());
  } else {
    value.set_null_value(google::protobuf::NULL_VALUE);
  }
  return value;
}

// Stops nlohmann's parser at kMaxDepth: it tells the callback each depth.
Json ParseShallow(absl::string_view text, bool& too_deep) {
  const auto check = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  return Json::parse(text.begin(), text.end(), check);
}

}  // namespace

Json ToJson(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNumberValue:
      return NumberToJson(value.number_value());
    case Value::kStringValue:
      return value.string_value();
    case Value::kBoolValue:
      return value.bool_value();
    case Value::kStructValue:
      return ToJson(value.struct_value());
    case Value::kListValue: {
      Json list = Json::array();
      for (const Value& element : value.list_value().values()) {
        list.push_back(ToJson(element));
      }
      return list;
    }
    default:
      return nullptr;
  }
}

Json ToJson(const Struct& payload) {
  const std::map<std::string, Value> sorted(payload.fields().begin(),
                                            payload.fields().end());
  Json json = Json::object();
  for (const auto& [key, value] : sorted) json[key] = ToJson(value);
  return json;
}

Json ToJson(const v1::Hit& hit, int rank) {
  Json json = {{"rank", rank},
               {"id", hit.item().id()},
               {"score", Shortest(hit.score())}};
  if (hit.has_probability()) json["probability"] = Shortest(hit.probability());
  json["payload"] = ToJson(hit.item().payload());
  if (!hit.item().media_uri().empty()) {
    json["media_uri"] = hit.item().media_uri();
  }
  for (const v1::Evidence& evidence : hit.evidence()) {
    json["evidence"].push_back(EvidenceToJson(evidence, hit.item().parts()));
  }
  for (const v1::StageScore& score : hit.stage_scores()) {
    json["stage_scores"][score.stage()] = Shortest(score.score());
  }
  return json;
}

Json ToJson(const v1::SearchReport& report) {
  Json stages = Json::object();
  for (const v1::StageTime& stage : report.stages()) {
    stages[stage.stage()] = Milliseconds(stage.duration());
  }
  return {{"model", ModelVersionToJson(report.model())},
          {"item_count", report.item_count()},
          {"index_version", report.index_version()},
          {"shards_asked", report.shards_asked()},
          {"shards_answered", report.shards_answered()},
          {"degraded", report.degraded()},
          {"degraded_reasons",
           Json(std::vector<std::string>(report.degraded_reasons().begin(),
                                         report.degraded_reasons().end()))},
          {"query_truncated", report.query_truncated()},
          {"stages_ms", stages}};
}

Json ToJson(const v1::Collection& collection) {
  const v1::CollectionStatus& status = collection.status();
  Json fields = Json::array();
  for (const v1::PayloadField& field : collection.payload_fields()) {
    fields.push_back({{"path", field.path()},
                      {"type", v1::PayloadField::Type_Name(field.type())},
                      {"repeated", field.repeated()}});
  }
  Json shards = Json::array();
  for (const v1::ShardStatus& shard : status.shards()) {
    Json& json = shards.emplace_back(
        Json{{"item_count", shard.item_count()},
             {"kind", v1::IndexConfig::Kind_Name(shard.kind())},
             {"device", shard.device()},
             {"available", shard.available()},
             {"message", shard.message()},
             {"effort", shard.effort()},
             {"rerank_depth", shard.rerank_depth()},
             {"stored_queries", shard.stored_queries()},
             {"real_queries", shard.real_queries()}});
    if (shard.has_measured_recall()) {
      json["measured_recall"] = shard.measured_recall();
    }
  }
  return {{"name", collection.name()},
          {"description", collection.description()},
          {"model", collection.model()},
          {"model_fingerprint", collection.model_fingerprint()},
          {"dimension", collection.dimension()},
          {"state", v1::CollectionStatus::State_Name(status.state())},
          {"message", status.message()},
          {"item_count", status.item_count()},
          {"disk_bytes", status.disk_bytes()},
          {"memory_bytes", status.memory_bytes()},
          {"index_version", status.index_version()},
          {"payload_fields", std::move(fields)},
          {"shards", std::move(shards)}};
}

Json ToJson(const v1::Snapshot& snapshot) {
  return {{"collection", snapshot.collection()},
          {"name", snapshot.name()},
          {"item_count", snapshot.item_count()},
          {"size_bytes", snapshot.size_bytes()},
          {"create_time",
           google::protobuf::util::TimeUtil::ToString(snapshot.create_time())},
          {"model_fingerprint", snapshot.model_fingerprint()}};
}

Json ToJson(const v1::Job& job) {
  using google::protobuf::util::TimeUtil;
  Json json = {{"id", job.id()},
               {"kind", job.kind()},
               {"collection", job.collection()},
               {"state", v1::Job::State_Name(job.state())},
               {"progress", job.progress()},
               {"message", job.message()}};
  if (job.has_start_time()) {
    json["start_time"] = TimeUtil::ToString(job.start_time());
  }
  if (job.has_end_time()) {
    json["end_time"] = TimeUtil::ToString(job.end_time());
  }
  return json;
}

Json ToJson(const v1::Model& model) {
  return {{"name", model.name()},
          {"version", model.version()},
          {"description", model.description()},
          {"fingerprint", model.fingerprint()},
          {"dimension", model.dimension()},
          {"max_tokens", model.max_tokens()},
          {"image_width", model.image_width()},
          {"image_height", model.image_height()},
          {"device", model.device()},
          {"precision", v1::Model::Precision_Name(model.precision())},
          {"state", v1::Model::State_Name(model.state())},
          {"is_default", model.is_default()},
          {"licence", model.licence()},
          {"memory_bytes", model.memory_bytes()},
          {"capabilities",
           Json(std::vector<std::string>(model.capabilities().begin(),
                                         model.capabilities().end()))}};
}

std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Struct> ParsePayload(absl::string_view text) {
  bool too_deep = false;
  try {
    const Json json = ParseShallow(text, too_deep);
    if (too_deep) {
      return absl::InvalidArgumentError(
          absl::StrCat("is nested deeper than ", kMaxDepth));
    }
    if (!json.is_object()) {
      return absl::InvalidArgumentError("is not a JSON object");
    }
    return StructFromJson(json);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("is not JSON: ", ValidUtf8(error.what())));
  }
}

std::string Summary(const Value& value) {
  if (value.kind_case() == Value::kStringValue) return value.string_value();
  return ToJson(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quern::cli
