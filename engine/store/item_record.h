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

inline constexpr int64_t kStoreFormatVersion = 1;

// The record "items": everything of an item but payload and embedding. Times
// are kept to the nanosecond, within the years 1678 to 2262.
std::string EncodeHeader(const Item& item, absl::Time create_time);

// The inverse; `id`, payload and embedding stay as they are in the result.
// Errors: kDataLoss for bytes that EncodeHeader() cannot have written.
absl::StatusOr<Item> DecodeHeader(absl::string_view bytes);

// The record "vectors".
std::string EncodeVector(absl::Span<const float> embedding);

// Errors: kDataLoss when `bytes` does not hold `dimension` values.
absl::StatusOr<std::vector<float>> DecodeVector(absl::string_view bytes,
                                                int64_t dimension);

// The record "item_count", and the changes that are merged into it.
std::string EncodeCount(int64_t count);
absl::StatusOr<int64_t> DecodeCount(absl::string_view bytes);

}  // namespace quern
