#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/struct.pb.h"

namespace quern::cli {

// What a payload file says of one picture.
struct FilePayload {
  int line = 0;                     // Where it was said, from 1.
  std::string id;                   // Empty: the item's id is its file name.
  google::protobuf::Struct fields;  // Without "file" and "id".
};

// Reads lines of JSON objects, {"file": "birds/wren.jpg", "id"?: "wren", ...},
// by the file they name. Blank lines are skipped. INVALID_ARGUMENT names the
// first line that cannot be used, or that names a file or an id again.
absl::StatusOr<std::map<std::string, FilePayload>> ReadPayloadFile(
    const std::filesystem::path& path);

}  // namespace quern::cli
