#include "engine/filter/field_values.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "google/protobuf/arena.h"
#include "google/protobuf/struct.pb.h"

#include "engine/base/error.h"

namespace quern {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

std::optional<FieldValue> Convert(const Value& value, FieldType type) {
  switch (type) {
    case FieldType::kString:
      if (!value.has_string_value()) return std::nullopt;
      return FieldValue(value.string_value());
    case FieldType::kNumber:
      if (!value.has_number_value() || std::isnan(value.number_value())) {
        return std::nullopt;
      }
      return FieldValue(value.number_value());
    case FieldType::kBool:
      if (!value.has_bool_value()) return std::nullopt;
      return FieldValue(value.bool_value());
    case FieldType::kTimestamp:
      if (!value.has_string_value()) return std::nullopt;
      return ParseTimestamp(value.string_value());
  }
  return std::nullopt;
}

// Collects one declared field from a payload. The depth of the recursion is
// that of the message, which its parser bounds.
class Reader {
 public:
  Reader(const FieldDeclaration& declaration, uint32_t field,
         std::vector<FieldValues::Entry>& entries)
      : declaration_(declaration), field_(field), entries_(entries) {}

  void Read(const Struct& object, absl::string_view path) {
    const size_t dot = path.find('.');
    const auto value = object.fields().find(std::string(path.substr(0, dot)));
    if (value == object.fields().end()) return;
    const bool last = dot == absl::string_view::npos;
    Read(value->second, last ? "" : path.substr(dot + 1), last);
  }

 private:
  void Read(const Value& value, absl::string_view rest, bool last) {
    if (value.has_list_value()) {
      if (!declaration_.repeated) return;
      for (const Value& element : value.list_value().values()) {
        // Lists of lists are of no declared type.
        if (!element.has_list_value()) Read(element, rest, last);
      }
    } else if (!last) {
      if (value.has_struct_value()) Read(value.struct_value(), rest);
    } else if (auto converted = Convert(value, declaration_.type)) {
      entries_.push_back({field_, *std::move(converted)});
    }
  }

  const FieldDeclaration& declaration_;
  const uint32_t field_;
  std::vector<FieldValues::Entry>& entries_;
};

bool Compare(const FilterNode& node, const FieldValue& value) {
  if (node.op == FilterOp::kPresent) return true;
  const FieldValue& bound = node.values[0];
  if (value.index() != bound.index()) return false;
  switch (node.op) {
    case FilterOp::kEqual:
      return value == bound;
    case FilterOp::kLess:
      return value < bound;
    case FilterOp::kLessEqual:
      return value <= bound;
    case FilterOp::kGreater:
      return value > bound;
    case FilterOp::kGreaterEqual:
      return value >= bound;
    case FilterOp::kPrefix:
      return absl::StartsWith(std::get<std::string>(value),
                              std::get<std::string>(bound));
    case FilterOp::kIn:
      return std::binary_search(node.values.begin(), node.values.end(), value);
    default:
      return false;
  }
}

bool MatchesNode(const FilterNode& node, const FieldValues& values) {
  const auto matches = [&values](const FilterNode& child) {
    return MatchesNode(child, values);
  };
  switch (node.op) {
    case FilterOp::kAnd:
      return std::all_of(node.children.begin(), node.children.end(), matches);
    case FilterOp::kOr:
      return std::any_of(node.children.begin(), node.children.end(), matches);
    case FilterOp::kNot:
      return !MatchesNode(node.children[0], values);
    default:
      return std::any_of(values.entries.begin(), values.entries.end(),
                         [&node](const FieldValues::Entry& entry) {
                           return entry.field == node.field &&
                                  Compare(node, entry.value);
                         });
  }
}

}  // namespace

absl::StatusOr<FieldValues> ReadFields(
    absl::string_view payload, int32_t modality,
    absl::Span<const FieldDeclaration> fields) {
  FieldValues values{.modality = modality};
  if (fields.empty() || payload.empty()) return values;
  google::protobuf::Arena arena;
  auto* message = google::protobuf::Arena::CreateMessage<Struct>(&arena);
  if (!message->ParseFromArray(payload.data(),
                               static_cast<int>(payload.size()))) {
    return InvalidField("payload", "is not a google.protobuf.Struct");
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    Reader(fields[i], static_cast<uint32_t>(i), values.entries)
        .Read(*message, fields[i].path);
  }
  return values;
}

bool Matches(const Filter& filter, const FieldValues& values) {
  return MatchesNode(filter.root(), values);
}

}  // namespace quern
