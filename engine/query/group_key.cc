#include "engine/query/group_key.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/struct.pb.h"

#include "engine/base/error.h"

namespace quern {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

constexpr size_t kMaxPathBytes = 256;

}  // namespace

absl::Status CheckGroupPath(absl::string_view path) {
  if (!path.empty() && path.size() <= kMaxPathBytes) {
    const std::vector<absl::string_view> names = absl::StrSplit(path, '.');
    bool has_empty = false;
    for (const absl::string_view name : names) has_empty |= name.empty();
    if (!has_empty) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(path),
                   " is not the path of a payload field: names with dots "
                   "between them, 1 to ",
                   kMaxPathBytes, " bytes"));
}

absl::StatusOr<std::optional<std::string>> GroupKey(absl::string_view payload,
                                                    absl::string_view path) {
  Struct root;
  if (!root.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::DataLossError("a payload is damaged");
  }
  const Struct* object = &root;
  const Value* value = nullptr;
  for (const absl::string_view name : absl::StrSplit(path, '.')) {
    if (object == nullptr) return std::nullopt;
    const auto found = object->fields().find(std::string(name));
    if (found == object->fields().end()) return std::nullopt;
    value = &found->second;
    object = value->has_struct_value() ? &value->struct_value() : nullptr;
  }
  switch (value->kind_case()) {
    case Value::kStringValue:
      return absl::StrCat("s", value->string_value());
    case Value::kNumberValue: {
      const double number = value->number_value();
      // 0 and -0 are one value.
      return absl::StrFormat("n%.17g", number == 0 ? 0.0 : number);
    }
    case Value::kBoolValue:
      return value->bool_value() ? "true" : "false";
    default:
      return std::nullopt;
  }
}

}  // namespace quern
