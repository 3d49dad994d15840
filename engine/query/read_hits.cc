#include "engine/query/read_hits.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr size_t kIdsAtOnce = 256;

}  // namespace

absl::Status AnswerBudget::Take(const Item& item) {
  const size_t bytes = item.id.size() + item.payload.size() +
                       item.media_uri.size() +
                       item.embedding.size() * sizeof(float);
  if (left_.fetch_sub(static_cast<int64_t>(bytes)) >=
      static_cast<int64_t>(bytes)) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "the hits have more than ", bytes_,
      " bytes, the most that an answer may have (server.max_message_bytes): "
      "ask for smaller pages, for fewer searches at once, or for less of each "
      "hit (read_mask)"));
}

absl::StatusOr<std::vector<std::optional<Item>>> ReadHits(
    const RequestContext& context, const ItemStore& store,
    absl::Span<const std::string> ids, ItemParts parts, AnswerBudget& budget) {
  std::vector<std::optional<Item>> all;
  all.reserve(ids.size());
  for (size_t begin = 0; begin < ids.size(); begin += kIdsAtOnce) {
    QUERN_RETURN_IF_ERROR(context.Check("fetch"));
    QUERN_ASSIGN_OR_RETURN(std::vector<std::optional<Item>> items,
                           store.Get(ids.subspan(begin, kIdsAtOnce), parts));
    for (std::optional<Item>& item : items) {
      if (item.has_value()) QUERN_RETURN_IF_ERROR(budget.Take(*item));
      all.push_back(std::move(item));
    }
  }
  return all;
}

}  // namespace quern
