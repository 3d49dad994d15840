#include "engine/query/collection_record.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

#include "engine/base/file.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormatVersion[] = "format_version";

absl::StatusOr<Json> ReadJson(const std::string& path) {
  QUERN_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged: it is not a JSON object"));
  }
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string RecordPath(const std::string& directory) {
  return absl::StrCat(directory, "/", kRecordFile);
}

absl::StatusOr<v1::Collection> ReadRecord(const std::string& directory) {
  const std::string path = RecordPath(directory);
  QUERN_ASSIGN_OR_RETURN(Json json, ReadJson(path));
  if (const auto version = json.find(kFormatVersion); version != json.end()) {
    if (*version != kRecordFormatVersion) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, " was written by a newer version of Quern (its format is ",
          Dump(*version), "; this version reads ", kRecordFormatVersion,
          "): run that version, or restore a snapshot of this one"));
    }
    json.erase(version);
  }
  v1::Collection record;
  const auto status =
      google::protobuf::util::JsonStringToMessage(Dump(json), &record);
  if (!status.ok()) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged: ", std::string(status.message())));
  }
  return record;
}

std::string NameInRecord(const std::string& directory) {
  const absl::StatusOr<Json> json = ReadJson(RecordPath(directory));
  if (!json.ok()) return "";
  const auto name = json->find("name");
  return name != json->end() && name->is_string() ? name->get<std::string>()
                                                  : "";
}

absl::Status WriteRecord(const std::string& directory,
                         const v1::Collection& record) {
  std::string text;
  const auto status =
      google::protobuf::util::MessageToJsonString(record, &text);
  if (!status.ok()) {
    return absl::InternalError(std::string(status.message()));
  }
  Json json = {{kFormatVersion, kRecordFormatVersion}};
  json.update(Json::parse(text));
  return WriteFileAtomically(RecordPath(directory), Dump(json));
}

}  // namespace quern
