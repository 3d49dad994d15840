#include "server/config_yaml.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "yaml-cpp/yaml.h"

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::EnumValueDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

bool IsDuration(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field.message_type()->full_name() == "google.protobuf.Duration";
}

bool IsSection(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         !IsDuration(field);
}

// "json" for FORMAT_JSON of the enum whose zero is FORMAT_UNSPECIFIED.
std::string ShortName(const EnumValueDescriptor& value) {
  absl::string_view prefix = value.type()->value(0)->name();
  absl::ConsumeSuffix(&prefix, "UNSPECIFIED");
  absl::string_view name = value.name();
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

// Edits (insert, delete, replace) between two words; Levenshtein 1966.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

// "unknown key", with the sibling that was probably meant.
std::string UnknownKey(absl::string_view key, absl::string_view parent_path,
                       const Descriptor& descriptor) {
  constexpr size_t kMaxEdits = 3;
  const FieldDescriptor* nearest = nullptr;
  size_t fewest = kMaxEdits + 1;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const size_t edits = EditDistance(key, descriptor.field(i)->name());
    if (edits < fewest && edits < descriptor.field(i)->name().size()) {
      fewest = edits;
      nearest = descriptor.field(i);
    }
  }
  if (nearest != nullptr) {
    return absl::StrCat("unknown key; did you mean ", parent_path,
                        nearest->name(), "?");
  }
  std::string known = "unknown key; there are ";
  for (int i = 0; i < descriptor.field_count(); ++i) {
    absl::StrAppend(&known, i > 0 ? ", " : "", parent_path,
                    descriptor.field(i)->name());
  }
  return known;
}

// "64MiB" or "1024".
std::optional<int64_t> ParseBytes(absl::string_view text) {
  int shift = 0;
  if (absl::ConsumeSuffix(&text, "KiB")) {
    shift = 10;
  } else if (absl::ConsumeSuffix(&text, "MiB")) {
    shift = 20;
  } else if (absl::ConsumeSuffix(&text, "GiB")) {
    shift = 30;
  }
  int64_t count = 0;
  if (!absl::SimpleAtoi(text, &count)) return std::nullopt;
  if (count > (std::numeric_limits<int64_t>::max() >> shift) ||
      count < (std::numeric_limits<int64_t>::min() >> shift)) {
    return std::nullopt;
  }
  return count << shift;
}

absl::Status WrongValue(absl::string_view text, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not ", wanted));
}

absl::Status SetInteger(const FieldDescriptor& field, absl::string_view text,
                        Message& parent) {
  const bool is_bytes = absl::EndsWith(field.name(), "_bytes");
  int64_t plain = 0;
  std::optional<int64_t> value;
  if (is_bytes) {
    value = ParseBytes(text);
  } else if (absl::SimpleAtoi(text, &plain)) {
    value = plain;
  }
  const bool is_narrow = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
  if (!value.has_value() ||
      (is_narrow && *value != static_cast<int32_t>(*value))) {
    return WrongValue(text, is_bytes ? "a size such as 1048576 or 64MiB"
                                     : "a whole number that fits");
  }
  if (is_narrow) {
    parent.GetReflection()->SetInt32(&parent, &field,
                                     static_cast<int32_t>(*value));
  } else {
    parent.GetReflection()->SetInt64(&parent, &field, *value);
  }
  return absl::OkStatus();
}

absl::Status SetBool(const FieldDescriptor& field, absl::string_view text,
                     Message& parent) {
  if (text != "true" && text != "false") {
    return WrongValue(text, "true or false");
  }
  parent.GetReflection()->SetBool(&parent, &field, text == "true");
  return absl::OkStatus();
}

absl::Status SetEnum(const FieldDescriptor& field, absl::string_view text,
                     Message& parent) {
  std::string names;
  // The value 0 means "not said".
  for (int i = 1; i < field.enum_type()->value_count(); ++i) {
    const EnumValueDescriptor& value = *field.enum_type()->value(i);
    const std::string name = ShortName(value);
    if (absl::EqualsIgnoreCase(text, name)) {
      parent.GetReflection()->SetEnum(&parent, &field, &value);
      return absl::OkStatus();
    }
    absl::StrAppend(&names, i > 1 ? ", " : "", name);
  }
  return WrongValue(text, absl::StrCat("one of: ", names));
}

absl::Status SetDuration(const FieldDescriptor& field, absl::string_view text,
                         Message& parent) {
  absl::Duration value;
  if (!absl::ParseDuration(text, &value) || value == absl::InfiniteDuration() ||
      value == -absl::InfiniteDuration()) {
    return WrongValue(text, "a duration such as 500ms, 30s or 1h");
  }
  google::protobuf::Duration duration;
  const int64_t seconds = absl::IDivDuration(value, absl::Seconds(1), &value);
  duration.set_seconds(seconds);
  duration.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(value)));
  parent.GetReflection()->MutableMessage(&parent, &field)->CopyFrom(duration);
  return absl::OkStatus();
}

absl::Status SetScalar(const FieldDescriptor& field, absl::string_view text,
                       Message& parent) {
  if (IsDuration(field)) return SetDuration(field, text, parent);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      parent.GetReflection()->SetString(&parent, &field, std::string(text));
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return SetInteger(field, text, parent);
    case FieldDescriptor::CPPTYPE_BOOL:
      return SetBool(field, text, parent);
    case FieldDescriptor::CPPTYPE_ENUM:
      return SetEnum(field, text, parent);
    default:
      return absl::UnimplementedError(
          absl::StrCat("no YAML form for ", field.full_name()));
  }
}

std::string WantedKind(const FieldDescriptor& field) {
  if (field.is_repeated()) return "a list";
  if (IsSection(field)) return "a section of keys";
  return "a single value";
}

absl::string_view KindOf(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a section of keys";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return "a single value";
    default:
      return "nothing";
  }
}

// Walks a YAML tree and the message along with it.
class Merger {
 public:
  // `place` makes the beginning of an error from a node's line (from 1).
  Merger(std::function<std::string(int line)> place, const FieldCheck& check)
      : place_(std::move(place)), check_(check) {}

  // `path` is that of `message`: empty, or with a dot at its end.
  absl::Status MergeSection(const YAML::Node& node, const std::string& path,
                            Message& message) const {
    if (node.IsNull()) return absl::OkStatus();
    if (!node.IsMap()) {
      return Error(
          node, std::string(absl::StripSuffix(path, ".")),
          absl::StrCat("must be a section of keys, not ", KindOf(node)));
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = entry.first.Scalar();
      const std::string key_path = absl::StrCat(path, key);
      if (!entry.first.IsScalar()) {
        return Error(entry.first, path, "a key must be a word");
      }
      if (!seen.insert(key).second) {
        return Error(entry.first, key_path, "is given twice");
      }
      const FieldDescriptor* field =
          message.GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        return Error(entry.first, key_path,
                     UnknownKey(key, path, *message.GetDescriptor()));
      }
      QUERN_RETURN_IF_ERROR(
          MergeField(entry.second, entry.first, key_path, *field, message));
    }
    return absl::OkStatus();
  }

  absl::Status MergeField(const YAML::Node& node, const YAML::Node& key,
                          const std::string& path, const FieldDescriptor& field,
                          Message& parent) const {
    if (field.is_repeated()) return MergeList(node, key, path, field, parent);
    if (IsSection(field)) {
      return MergeSection(
          node, absl::StrCat(path, "."),
          *parent.GetReflection()->MutableMessage(&parent, &field));
    }
    const bool is_empty_text =
        node.IsNull() && field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    if (!node.IsScalar() && !is_empty_text) {
      return WrongKind(node, key, path, field);
    }
    absl::Status status =
        SetScalar(field, is_empty_text ? "" : node.Scalar(), parent);
    if (status.ok()) status = check_(path, parent, field);
    return status.ok() ? status : Error(key, path, status.message());
  }

 private:
  absl::Status MergeList(const YAML::Node& node, const YAML::Node& key,
                         const std::string& path, const FieldDescriptor& field,
                         Message& parent) const {
    if (!node.IsSequence()) return WrongKind(node, key, path, field);
    const Reflection& reflection = *parent.GetReflection();
    reflection.ClearField(&parent, &field);
    for (size_t i = 0; i < node.size(); ++i) {
      if (!node[i].IsScalar()) {
        return Error(
            node[i], absl::StrCat(path, "[", i, "]"),
            absl::StrCat("must be a single value, not ", KindOf(node[i])));
      }
      reflection.AddString(&parent, &field, node[i].Scalar());
    }
    const absl::Status status = check_(path, parent, field);
    return status.ok() ? status : Error(key, path, status.message());
  }

  absl::Status WrongKind(const YAML::Node& node, const YAML::Node& key,
                         const std::string& path,
                         const FieldDescriptor& field) const {
    return Error(
        key, path,
        absl::StrCat("must be ", WantedKind(field), ", not ", KindOf(node)));
  }

  absl::Status Error(const YAML::Node& node, const std::string& path,
                     absl::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat(place_(node.Mark().line + 1), path.empty() ? "" : path,
                     path.empty() ? "" : ": ", message));
  }

  const std::function<std::string(int line)> place_;
  const FieldCheck& check_;
};

// Runs `call`, which may throw what yaml-cpp throws for a text that is not
// YAML.
absl::Status GuardYaml(absl::string_view name,
                       const std::function<absl::Status()>& call) {
  return Guard("yaml-cpp", [&]() -> absl::Status {
    try {
      return call();
    } catch (const YAML::ParserException& error) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", error.mark.line + 1, ": ", error.msg));
    }
  });
}

void EmitMessage(const Message& message, YAML::Emitter& out);

void EmitField(const Message& parent, const FieldDescriptor& field,
               YAML::Emitter& out) {
  const Reflection& reflection = *parent.GetReflection();
  out << YAML::Key << field.name() << YAML::Value;
  if (field.is_repeated()) {
    out << YAML::BeginSeq;
    for (int i = 0; i < reflection.FieldSize(parent, &field); ++i) {
      out << reflection.GetRepeatedString(parent, &field, i);
    }
    out << YAML::EndSeq;
  } else if (IsSection(field)) {
    EmitMessage(reflection.GetMessage(parent, &field), out);
  } else {
    out << ScalarText(parent, field);
  }
}

void EmitMessage(const Message& message, YAML::Emitter& out) {
  out << YAML::BeginMap;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    EmitField(message, *message.GetDescriptor()->field(i), out);
  }
  out << YAML::EndMap;
}

}  // namespace

absl::Status MergeYamlInto(absl::string_view yaml, absl::string_view name,
                           const FieldCheck& check, Message& message) {
  return GuardYaml(name, [&]() -> absl::Status {
    const YAML::Node root = YAML::Load(std::string(yaml));
    const auto place = [name](int line) {
      return absl::StrCat(name, ":", line, ": ");
    };
    return Merger(place, check).MergeSection(root, "", message);
  });
}

absl::Status AssignPath(absl::string_view path, absl::string_view value,
                        absl::string_view place, const FieldCheck& check,
                        Message& message) {
  Message* parent = &message;
  std::string parent_path;
  const FieldDescriptor* field = nullptr;
  for (absl::string_view key : absl::StrSplit(path, '.')) {
    if (field != nullptr) {
      if (!IsSection(*field) || field->is_repeated()) {
        return absl::InvalidArgumentError(absl::StrCat(
            place, ": ", absl::StripSuffix(parent_path, "."), " has no keys"));
      }
      parent = parent->GetReflection()->MutableMessage(parent, field);
    }
    field = parent->GetDescriptor()->FindFieldByName(std::string(key));
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": ", parent_path, key, ": ",
                       UnknownKey(key, parent_path, *parent->GetDescriptor())));
    }
    absl::StrAppend(&parent_path, key, ".");
  }
  return GuardYaml(place, [&]() -> absl::Status {
    const bool is_text = !field->is_repeated() &&
                         field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    const YAML::Node node = is_text ? YAML::Node(std::string(value))
                                    : YAML::Load(std::string(value));
    const Merger merger([place](int) { return absl::StrCat(place, ": "); },
                        check);
    return merger.MergeField(node, node, std::string(path), *field, *parent);
  });
}

std::string MessageToYaml(const Message& message) {
  YAML::Emitter out;
  EmitMessage(message, out);
  return absl::StrCat(out.c_str(), "\n");
}

std::string ScalarText(const Message& parent, const FieldDescriptor& field) {
  const Reflection& reflection = *parent.GetReflection();
  if (IsDuration(field)) {
    google::protobuf::Duration duration;
    duration.CopyFrom(reflection.GetMessage(parent, &field));
    return absl::FormatDuration(absl::Seconds(duration.seconds()) +
                                absl::Nanoseconds(duration.nanos()));
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(parent, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(parent, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(parent, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return ShortName(*reflection.GetEnum(parent, &field));
    default:
      return reflection.GetString(parent, &field);
  }
}

}  // namespace quern
