#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

// YAML to and from any protobuf message, by reflection. Keys are field names;
// google.protobuf.Duration is "500ms", fields that end in _bytes also take
// "64MiB", enum values are their names without the prefix ("json").

namespace quern {

// What else a value must satisfy: called for each scalar field that was set,
// with its path ("server.threads") and the message that holds it. Its error's
// message is reported with the place.
using FieldCheck = std::function<absl::Status(
    absl::string_view path, const google::protobuf::Message& parent,
    const google::protobuf::FieldDescriptor& field)>;

// Puts a YAML document over `message`. Errors: kInvalidArgument with
// "NAME:LINE: PATH: what is wrong".
absl::Status MergeYamlInto(absl::string_view yaml, absl::string_view name,
                           const FieldCheck& check,
                           google::protobuf::Message& message);

// Sets the one field at a dotted path. Errors: kInvalidArgument with
// "PLACE: what is wrong".
absl::Status AssignPath(absl::string_view path, absl::string_view value,
                        absl::string_view place, const FieldCheck& check,
                        google::protobuf::Message& message);

// Every field, set or not, in order of the descriptor.
std::string MessageToYaml(const google::protobuf::Message& message);

// The value of a singular scalar, enum or Duration field as YAML writes it,
// without quotes.
std::string ScalarText(const google::protobuf::Message& parent,
                       const google::protobuf::FieldDescriptor& field);

}  // namespace quern
