#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/store/item_store.h"

namespace quern {

// How many bytes the items of one answer may have together. Thread-safe.
class AnswerBudget {
 public:
  explicit AnswerBudget(int64_t bytes) : bytes_(bytes), left_(bytes) {}

  // Errors: kResourceExhausted when the items so far have more.
  absl::Status Take(const Item& item);

 private:
  const int64_t bytes_;
  std::atomic<int64_t> left_;
};

// As ItemStore::Get(), some hundred items at a time: no more is read than
// `budget` has. Errors: also those of the budget and of context.Check().
absl::StatusOr<std::vector<std::optional<Item>>> ReadHits(
    const RequestContext& context, const ItemStore& store,
    absl::Span<const std::string> ids, ItemParts parts, AnswerBudget& budget);

}  // namespace quern
