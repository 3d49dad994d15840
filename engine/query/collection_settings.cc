#include "engine/query/collection_settings.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

constexpr size_t kMaxDescriptionBytes = 1024;
constexpr int kMaxPayloadFields = 64;
constexpr size_t kMaxFieldPathBytes = 256;
// Times of expiry stay within the years that the store keeps.
constexpr absl::Duration kMaxTtl = absl::Hours(24 * 365 * 100);
constexpr absl::string_view kChangeable =
    "description, parts, payload_fields, ttl";

absl::StatusOr<FieldType> DecodeType(v1::PayloadField::Type type) {
  switch (type) {
    case v1::PayloadField::TYPE_STRING:
      return FieldType::kString;
    case v1::PayloadField::TYPE_NUMBER:
      return FieldType::kNumber;
    case v1::PayloadField::TYPE_BOOL:
      return FieldType::kBool;
    case v1::PayloadField::TYPE_TIMESTAMP:
      return FieldType::kTimestamp;
    default:
      return InvalidField("type",
                          absl::StrCat("is ", static_cast<int>(type),
                                       "; it must be STRING, NUMBER, BOOL or "
                                       "TIMESTAMP"));
  }
}

absl::Status CheckPath(absl::string_view path) {
  if (path.empty() || path.size() > kMaxFieldPathBytes) {
    return InvalidField(
        "path", absl::StrCat("has ", path.size(), " bytes; it must have 1 to ",
                             kMaxFieldPathBytes));
  }
  if (!IsValidUtf8(path)) return InvalidField("path", "is not valid UTF-8");
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '.');
  if (std::find(parts.begin(), parts.end(), "") != parts.end()) {
    return InvalidField(
        "path", absl::StrCat(Quoted(path),
                             " has an empty part; write it like \"camera\" or "
                             "\"camera.model\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<FieldDeclaration> DecodeField(const v1::PayloadField& field) {
  QUERN_RETURN_IF_ERROR(CheckPath(field.path()));
  FieldDeclaration declaration{.path = field.path(),
                               .repeated = field.repeated()};
  QUERN_ASSIGN_OR_RETURN(declaration.type, DecodeType(field.type()));
  return declaration;
}

}  // namespace

absl::StatusOr<absl::Duration> DecodeTtl(const google::protobuf::Duration& ttl,
                                         absl::string_view field) {
  const absl::Duration duration =
      absl::Seconds(ttl.seconds()) + absl::Nanoseconds(ttl.nanos());
  if (duration > absl::ZeroDuration() && duration <= kMaxTtl) return duration;
  return InvalidField(field, absl::StrCat("is ", absl::FormatDuration(duration),
                                          "; it must be above 0 and at most ",
                                          absl::FormatDuration(kMaxTtl)));
}

absl::StatusOr<CollectionSettings> SettingsOf(const v1::Collection& record) {
  CollectionSettings settings{.record = record};
  if (record.description().size() > kMaxDescriptionBytes) {
    return InvalidField(
        "description",
        absl::StrCat("has ", record.description().size(),
                     " bytes; the limit is ", kMaxDescriptionBytes));
  }
  if (record.has_ttl()) {
    QUERN_ASSIGN_OR_RETURN(settings.ttl, DecodeTtl(record.ttl(), "ttl"));
  }
  if (record.payload_fields_size() > kMaxPayloadFields) {
    return InvalidField("payload_fields",
                        absl::StrCat("there are ", record.payload_fields_size(),
                                     "; the limit is ", kMaxPayloadFields));
  }
  absl::flat_hash_set<absl::string_view> paths;
  for (int i = 0; i < record.payload_fields_size(); ++i) {
    const std::string name = absl::StrCat("payload_fields[", i, "]");
    absl::StatusOr<FieldDeclaration> field =
        DecodeField(record.payload_fields(i));
    if (!field.ok()) return InField(field.status(), name);
    if (!paths.insert(record.payload_fields(i).path()).second) {
      return InvalidField(
          absl::StrCat(name, ".path"),
          absl::StrCat(Quoted(field->path), " is declared twice"));
    }
    settings.fields.push_back(*std::move(field));
  }
  return settings;
}

absl::Status MergeSettings(const v1::Collection& wanted,
                           const google::protobuf::FieldMask& mask,
                           v1::Collection& record) {
  if (mask.paths().empty()) {
    return InvalidField("update_mask",
                        absl::StrCat("is empty; give some of: ", kChangeable));
  }
  for (const std::string& path : mask.paths()) {
    if (path == "description") {
      record.set_description(wanted.description());
    } else if (path == "parts") {
      // Of what is upserted from now on.
      record.clear_parts();
      if (wanted.has_parts()) *record.mutable_parts() = wanted.parts();
    } else if (path == "payload_fields") {
      *record.mutable_payload_fields() = wanted.payload_fields();
    } else if (path == "ttl") {
      record.clear_ttl();
      if (wanted.has_ttl()) *record.mutable_ttl() = wanted.ttl();
    } else {
      return InvalidField("update_mask",
                          absl::StrCat(Quoted(path),
                                       " cannot be changed; give "
                                       "some of: ",
                                       kChangeable));
    }
  }
  return absl::OkStatus();
}

}  // namespace quern
