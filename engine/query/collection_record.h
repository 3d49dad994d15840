#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "quern/v1/collections.pb.h"

// The file `collection.json`: a collection's record as protobuf JSON, and the
// version of its format as `format_version`; without it that is 1.

namespace quern {

inline constexpr absl::string_view kRecordFile = "collection.json";
// A field that older versions need not understand is a new version too: they
// would drop it with the next change of the record.
inline constexpr int64_t kRecordFormatVersion = 1;

std::string RecordPath(const std::string& directory);

// Errors, naming the file:
//   kNotFound
//   kDataLoss            it is damaged
//   kFailedPrecondition  a newer Quern wrote it
absl::StatusOr<v1::Collection> ReadRecord(const std::string& directory);

// The name of the collection, as far as it can be made out where ReadRecord()
// fails; otherwise empty.
std::string NameInRecord(const std::string& directory);

absl::Status WriteRecord(const std::string& directory,
                         const v1::Collection& record);

}  // namespace quern
