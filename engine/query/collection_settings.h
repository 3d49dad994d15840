#pragma once

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/field_mask.pb.h"

#include "engine/filter/filter.h"
#include "quern/v1/collections.pb.h"

namespace quern {

// What of a collection can be changed after it was made.
struct CollectionSettings {
  v1::Collection record;  // With these settings; no status.
  // Items expire this long after they are written. Null: never.
  std::optional<absl::Duration> ttl;
  std::vector<FieldDeclaration> fields;  // Those that filters may name.
};

// The settings of a record. Errors: kInvalidArgument with field paths as in
// quern.v1.Collection.
absl::StatusOr<CollectionSettings> SettingsOf(const v1::Collection& record);

// Puts the fields of `wanted` that `mask` names over those of `record`. Errors:
// kInvalidArgument on "update_mask" for one that is empty, or names what cannot
// be changed.
absl::Status MergeSettings(const v1::Collection& wanted,
                           const google::protobuf::FieldMask& mask,
                           v1::Collection& record);

// How long an item lives. Errors: kInvalidArgument on `field` unless it is
// above 0 and at most 100 years.
absl::StatusOr<absl::Duration> DecodeTtl(const google::protobuf::Duration& ttl,
                                         absl::string_view field);

}  // namespace quern
