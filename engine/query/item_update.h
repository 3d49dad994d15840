#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/timestamp.pb.h"

#include "engine/store/item_store.h"
#include "quern/v1/items.pb.h"

namespace quern {

inline constexpr size_t kMaxMediaUriBytes = 4096;

absl::Time ToTime(const google::protobuf::Timestamp& timestamp);

// Errors: kInvalidArgument on "media_uri" when it is too long.
absl::Status CheckMediaUri(absl::string_view uri);

// What a caller wants changed of a stored item.
class ItemUpdate {
 public:
  // Takes from `given` what `mask` names: "payload", "payload.<path>" at any
  // depth, "media_uri", "expire_time", or "*" for all of them. What is named
  // and not given is removed. `given` must outlive the update. Errors:
  // kInvalidArgument with field paths as in quern.v1.UpdateItemRequest.
  static absl::StatusOr<ItemUpdate> Create(
      const v1::Item& given, const google::protobuf::FieldMask& mask,
      absl::Time now);

  // Errors: kInvalidArgument where the stored payload has a value that is no
  // struct on the way to a field, or becomes longer than `max_payload_bytes`;
  // kDataLoss when the stored payload cannot be read. `item` is then half
  // changed.
  absl::Status Apply(int64_t max_payload_bytes, Item& item) const;

 private:
  ItemUpdate(const v1::Item& given, absl::Time now)
      : given_(&given), now_(now) {}

  absl::Status AddPath(absl::string_view path);
  absl::Status ApplyPayload(int64_t max_payload_bytes, Item& item) const;

  const v1::Item* given_;
  absl::Time now_;
  bool whole_payload_ = false;
  bool media_uri_ = false;
  bool expire_time_ = false;
  std::vector<std::vector<std::string>> payload_paths_;
};

}  // namespace quern
