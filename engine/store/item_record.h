#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/store/item_store.h"

// The bytes of a stored item's records. README.md of this folder has the
// tables; a change of a table is a new kStoreFormatVersion.

namespace quern {

inline constexpr int64_t kStoreFormatVersion = 4;

// The record "items": everything of an item but payload and embedding. Times
// are kept to the nanosecond, within the years 1678 to 2262.
std::string EncodeHeader(const Item& item, absl::Time create_time,
                         uint64_t sequence);

// The inverse; `id`, payload and embedding stay as they are in the result.
// Reads headers of format 1 too. Errors: kDataLoss for bytes that neither
// version can have written.
absl::StatusOr<Item> DecodeHeader(absl::string_view bytes);

// The keys of "changes" and "expiries": a number, or a time, and an id, in the
// order of both.
std::string EncodeChangeKey(uint64_t sequence, absl::string_view id);
std::string EncodeExpiryKey(absl::Time time, absl::string_view id);

// The inverse; the id is what is left of `key`. Errors: kDataLoss when it is
// too short.
absl::StatusOr<uint64_t> TakeChangeSequence(absl::string_view& key);
absl::StatusOr<absl::Time> TakeExpiryTime(absl::string_view& key);

// The record "vectors": every bit of the values, with what their exponents have
// in common said once, if that is shorter.
std::string EncodeVector(absl::Span<const float> embedding);

// Reads vectors of all formats. Errors: kDataLoss when `bytes` does not hold as
// many values.
absl::Status DecodeVector(absl::string_view bytes, absl::Span<float> embedding);

// The record "item_count", and the changes that are merged into it.
std::string EncodeCount(int64_t count);
absl::StatusOr<int64_t> DecodeCount(absl::string_view bytes);

}  // namespace quern
