#include "engine/query/collection_record.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

#include "engine/base/file.h"
#include "engine/base/status_macros.h"

namespace quern {

std::string RecordPath(const std::string& directory) {
  return absl::StrCat(directory, "/", kRecordFile);
}

absl::StatusOr<v1::Collection> ReadRecord(const std::string& directory) {
  const std::string path = RecordPath(directory);
  QUERN_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  v1::Collection record;
  const auto status =
      google::protobuf::util::JsonStringToMessage(json, &record);
  if (!status.ok()) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged: ", std::string(status.message())));
  }
  return record;
}

absl::Status WriteRecord(const std::string& directory,
                         const v1::Collection& record) {
  google::protobuf::util::JsonPrintOptions print;
  print.add_whitespace = true;
  std::string json;
  const auto status =
      google::protobuf::util::MessageToJsonString(record, &json, print);
  if (!status.ok()) {
    return absl::InternalError(std::string(status.message()));
  }
  return WriteFileAtomically(RecordPath(directory), json);
}

}  // namespace quern
