#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/struct.pb.h"
#include "nlohmann/json_fwd.hpp"

#include "quern/v1/collections.pb.h"
#include "quern/v1/models.pb.h"
#include "quern/v1/retrieval.pb.h"

// The messages as people's scripts want them in JSON: plain names, numbers as
// numbers, times in milliseconds, what is not set left out.

namespace quern::cli {

using Json = nlohmann::ordered_json;

// Keys in byte order, whole numbers without a fraction.
Json ToJson(const google::protobuf::Struct& payload);
Json ToJson(const google::protobuf::Value& value);

// {"rank", "id", "score", "probability"?, "payload", "media_uri"?, "evidence"?,
// "stage_scores"?}; `rank` counts from 1.
Json ToJson(const v1::Hit& hit, int rank);
Json ToJson(const v1::SearchReport& report);
Json ToJson(const v1::Collection& collection);
Json ToJson(const v1::Snapshot& snapshot);
Json ToJson(const v1::Job& job);
Json ToJson(const v1::Model& model);

// Indented, ends in a line end, always valid UTF-8.
std::string Dump(const Json& json);

// One JSON object as a payload. INVALID_ARGUMENT with the parser's reason.
absl::StatusOr<google::protobuf::Struct> ParsePayload(absl::string_view text);

// A value in a few words: strings as they are, everything else as JSON on one
// line.
std::string Summary(const google::protobuf::Value& value);

}  // namespace quern::cli
