#include "engine/query/item_update.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/struct.pb.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

using ::google::protobuf::Struct;
using ::google::protobuf::Value;

constexpr absl::string_view kChangeable =
    "payload, payload.<field>, media_uri, expire_time";
constexpr absl::string_view kPayloadPrefix = "payload.";

// The value at a path; null where there is none.
const Value* Find(const Struct& payload, const std::vector<std::string>& path) {
  const Struct* level = &payload;
  for (size_t i = 0;; ++i) {
    const auto field = level->fields().find(path[i]);
    if (field == level->fields().end()) return nullptr;
    if (i + 1 == path.size()) return &field->second;
    if (!field->second.has_struct_value()) return nullptr;
    level = &field->second.struct_value();
  }
}

void Remove(const std::vector<std::string>& path, Struct& payload) {
  if (Find(payload, path) == nullptr) return;
  Struct* level = &payload;
  for (size_t i = 0; i + 1 < path.size(); ++i) {
    level = level->mutable_fields()->at(path[i]).mutable_struct_value();
  }
  level->mutable_fields()->erase(path.back());
}

absl::Status Set(const std::vector<std::string>& path, const Value& value,
                 Struct& payload) {
  Struct* level = &payload;
  for (size_t i = 0; i + 1 < path.size(); ++i) {
    Value& inner = (*level->mutable_fields())[path[i]];
    if (inner.kind_case() != Value::KIND_NOT_SET && !inner.has_struct_value()) {
      return InvalidField(
          "update_mask",
          absl::StrCat(
              Quoted(absl::StrCat(kPayloadPrefix, absl::StrJoin(path, "."))),
              ": the stored ",
              Quoted(absl::StrJoin(path.begin(), path.begin() + i + 1, ".")),
              " is not a struct: replace it as a whole"));
    }
    level = inner.mutable_struct_value();
  }
  (*level->mutable_fields())[path.back()] = value;
  return absl::OkStatus();
}

absl::Status CheckExpireTime(const google::protobuf::Timestamp& given,
                             absl::Time now) {
  // Later than this the store's clock does not go.
  const absl::Time max =
      absl::FromUnixNanos(std::numeric_limits<int64_t>::max() - 1);
  const absl::Time time = ToTime(given);
  if (time > now && time <= max) return absl::OkStatus();
  return InvalidField(
      "item.expire_time",
      absl::StrCat("is ", absl::FormatTime(time, absl::UTCTimeZone()),
                   "; it must be later than now and not after ",
                   absl::FormatTime(max, absl::UTCTimeZone()),
                   ": leave it out for never, or delete the item"));
}

}  // namespace

absl::Time ToTime(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(timestamp.seconds()) +
         absl::Nanoseconds(timestamp.nanos());
}

absl::Status CheckMediaUri(absl::string_view uri) {
  if (uri.size() <= kMaxMediaUriBytes) return absl::OkStatus();
  return InvalidField("media_uri",
                      absl::StrCat("has ", uri.size(), " bytes; the limit is ",
                                   kMaxMediaUriBytes));
}

absl::StatusOr<ItemUpdate> ItemUpdate::Create(
    const v1::Item& given, const google::protobuf::FieldMask& mask,
    absl::Time now) {
  ItemUpdate update(given, now);
  if (mask.paths().empty()) {
    return InvalidField("update_mask",
                        absl::StrCat("is empty; give some of: ", kChangeable));
  }
  for (const std::string& path : mask.paths()) {
    QUERN_RETURN_IF_ERROR(update.AddPath(path));
  }
  if (update.media_uri_) {
    QUERN_RETURN_IF_ERROR(InField(CheckMediaUri(given.media_uri()), "item"));
  }
  if (update.expire_time_ && given.has_expire_time()) {
    QUERN_RETURN_IF_ERROR(CheckExpireTime(given.expire_time(), now));
  }
  return update;
}

absl::Status ItemUpdate::AddPath(absl::string_view path) {
  const bool all = path == "*";
  if (all || path == "payload") whole_payload_ = true;
  if (all || path == "media_uri") media_uri_ = true;
  if (all || path == "expire_time") expire_time_ = true;
  if (all || path == "payload" || path == "media_uri" ||
      path == "expire_time") {
    return absl::OkStatus();
  }
  absl::string_view inner = path;
  std::vector<std::string> parts;
  if (absl::ConsumePrefix(&inner, kPayloadPrefix)) {
    parts = absl::StrSplit(inner, '.');
  }
  if (parts.empty() ||
      std::find(parts.begin(), parts.end(), "") != parts.end()) {
    return InvalidField("update_mask", absl::StrCat(Quoted(path),
                                                    " cannot be changed; give "
                                                    "some of: ",
                                                    kChangeable));
  }
  payload_paths_.push_back(std::move(parts));
  return absl::OkStatus();
}

absl::Status ItemUpdate::Apply(int64_t max_payload_bytes, Item& item) const {
  if (media_uri_) item.media_uri = given_->media_uri();
  if (expire_time_) {
    item.expire_time.reset();
    if (given_->has_expire_time()) {
      item.expire_time = ToTime(given_->expire_time());
    }
  }
  item.update_time = now_;
  if (!whole_payload_ && payload_paths_.empty()) return absl::OkStatus();
  return ApplyPayload(max_payload_bytes, item);
}

absl::Status ItemUpdate::ApplyPayload(int64_t max_payload_bytes,
                                      Item& item) const {
  if (whole_payload_) {
    item.payload = given_->payload().SerializeAsString();
  } else {
    Struct payload;
    if (!payload.ParseFromString(item.payload)) {
      return absl::DataLossError(
          absl::StrCat("the payload of item ", Quoted(item.id), " is damaged"));
    }
    for (const std::vector<std::string>& path : payload_paths_) {
      const Value* const value = Find(given_->payload(), path);
      if (value == nullptr) {
        Remove(path, payload);
      } else {
        QUERN_RETURN_IF_ERROR(Set(path, *value, payload));
      }
    }
    item.payload = payload.SerializeAsString();
  }
  if (static_cast<int64_t>(item.payload.size()) > max_payload_bytes) {
    return InvalidField(
        "item.payload",
        absl::StrCat("has ", item.payload.size(), " bytes",
                     whole_payload_ ? "" : " after the change",
                     "; limits.max_payload_bytes is ", max_payload_bytes));
  }
  return absl::OkStatus();
}

}  // namespace quern
