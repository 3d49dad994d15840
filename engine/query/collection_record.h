#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "quern/v1/collections.pb.h"

// The file `collection.json`: a collection's record as protobuf JSON.

namespace quern {

inline constexpr absl::string_view kRecordFile = "collection.json";

std::string RecordPath(const std::string& directory);

// Errors: kNotFound; kDataLoss naming the file.
absl::StatusOr<v1::Collection> ReadRecord(const std::string& directory);

absl::Status WriteRecord(const std::string& directory,
                         const v1::Collection& record);

}  // namespace quern
