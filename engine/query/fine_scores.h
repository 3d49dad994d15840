#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/base/request_context.h"
#include "engine/fine/scorer.h"
#include "engine/query/collection.h"

namespace quern {

// A short list of a coarse search, and where what a scorer needs of it comes
// from. It owns what it is made of: whoever asked may be gone before it is
// scored.
struct ShortList {
  std::shared_ptr<Collection> collection;
  std::vector<std::string> ids;  // Best first.
  ScoreRequest request;          // Without candidates.
  // Reads an item's media by its uri.
  std::function<absl::StatusOr<std::string>(absl::string_view uri)> read_media;
  int64_t max_media_bytes = 0;  // Of all candidates together.
};

// What the fine stage says of one item.
struct FineScore {
  float score = 0;
  bool is_video = false;
  std::optional<float> probability;
  std::vector<Evidence> evidence;
};

struct FineScores {
  absl::flat_hash_map<std::string, FineScore> scores;  // By id.
  // Why some have none.
  std::vector<std::string> degraded_reasons;
  // Of a search for parts (part_search.h): items that were deleted meanwhile,
  // and such as have no parts to look into.
  std::vector<std::string> gone;
  std::vector<std::string> without_parts;
};

// Reads what `scorer` needs of the list, and has it scored. An item that is
// gone, that lacks what is needed, or that is beyond what the scorer takes at
// once, has no score, with the reason. Errors: kInvalidArgument when the query
// lacks what is needed; those of the store and of the scorer.
absl::StatusOr<FineScores> ScoreShortList(const RequestContext& context,
                                          const Scorer& scorer,
                                          const ShortList& list);

}  // namespace quern
