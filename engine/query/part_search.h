#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/fine/evidence.h"
#include "engine/fine/presence.h"
#include "engine/fine/spatial_relations.h"
#include "engine/index/part_index.h"
#include "engine/index/vector_index.h"
#include "engine/model/model.h"
#include "engine/query/collection.h"
#include "engine/query/fine_scores.h"
#include "engine/query/fine_stage.h"
#include "engine/query/part_grounder.h"
#include "engine/query/rerank.h"

// A search whose hits are parts of items (Lei et al., "TVR", 2020, call it
// video corpus moment retrieval): items are found as a whole, or by the one of
// their parts that fits best, where the collection has an index of those; the
// query's text is grounded in what is kept of the best ones' parts, and what
// was found competes over all items.

namespace quern {

// What a hit is.
enum class Granularity {
  kItem,     // A whole item.
  kRegion,   // A region of a picture.
  kSegment,  // A segment of a video.
};

// Hits that one item may have.
inline constexpr int64_t kMaxPartsOfItem = 5;
// Share of a part's own score in the final one, where the caller does not say.
// Chosen on media that models/media makes; see README.md of engine/fine.
inline constexpr float kDefaultPartWeight = 0.8F;

// What a search for parts is to do.
struct PartPlan {
  Granularity granularity = Granularity::kRegion;
  int32_t modality = 0;  // The only kind of item that is looked into.
  // Places in the query of its texts of positive weight; not empty.
  std::vector<size_t> texts;
  // Of a query for regions with one text that has words of place: what is to be
  // embedded besides it, thing by thing. Else without a relation, and the texts
  // are looked for as they are.
  SpatialPhrase phrase;
  // Segments are for the model's moments head to find, by the texts' tokens.
  bool asks_head = false;
  std::optional<PresenceCalibration> calibration;
  int64_t depth = 100;  // Items that are looked into.
  float weight = kDefaultPartWeight;
  // By which items are found; null: as a whole. Then, why not by their parts,
  // or empty where that was not asked for.
  std::shared_ptr<const PartIndex> index;
  std::string index_missing;
};

// What of a query is planned for.
struct PartRequest {
  Granularity granularity = Granularity::kRegion;
  // The text of each part of the query that is one and has a positive weight,
  // by its place in the query.
  std::vector<std::pair<size_t, absl::string_view>> texts;
  absl::Span<const int32_t> modalities;
  const RerankOptions* rerank = nullptr;  // May be null.
  std::optional<double> min_probability;
};

// Errors:
//   kInvalidArgument     no text; a rerank method or modalities that exclude
//                        what is asked for (fields of quern.v1.SearchRequest)
//   kFailedPrecondition  the model lacks a capability, or a calibration where
//                        `min_probability` is given; the collection keeps no
//                        such parts
absl::StatusOr<PartPlan> PlanParts(const PartRequest& request,
                                   const Collection& collection,
                                   const Model* model);

// Items, those first whose best part fits best.
struct ItemsByParts {
  std::vector<ScoredId> items;  // With the scores of the whole items.
  PartIndexStats stats;
};

// The best `k` items by the index of the plan, which has one. `query` is the
// whole query's vector. Errors: kFailedPrecondition where none of the items
// that match keeps parts; those of PartIndex::Search() and of the store.
absl::StatusOr<ItemsByParts> FindByParts(const RequestContext& context,
                                         const PartPlan& plan,
                                         const Collection& collection,
                                         absl::Span<const float> query,
                                         std::shared_ptr<const Filter> filter,
                                         int64_t k);

// What FindByParts() did, in words.
std::string ExplainByParts(const PartPlan& plan, const PartIndexStats& stats);

// The short list of a coarse search and what is looked for in it. It owns what
// it is made of: whoever asked may be gone before all of it is looked into.
struct PartList {
  std::shared_ptr<Collection> collection;
  std::vector<std::string> ids;  // Best first.
  PartGrounder grounder;
};

// Looks into the items of `list` on the threads of `stage`, several at once, or
// where that is null on the caller's. Calls `done` once, maybe before it
// returns; `context` must live until then. An item that is in none of the
// result's lists was not looked into, for lack of time or of room in the queue,
// which its reasons say where it was the latter. Errors: those of the store.
void GroundShortList(FineStage* stage, const RequestContext& context,
                     const std::shared_ptr<const PartList>& list,
                     std::function<void(absl::StatusOr<FineScores>)> done);

// A part on its way into the hits.
struct FoundPart {
  std::string id;  // Of its item.
  float coarse = 0;
  std::optional<float> fine;  // Null: its item was not looked into.
  float score = 0;            // Final.
  // Where it is; nowhere for an item that was not looked into.
  Evidence evidence;
};

struct PartRanking {
  float weight = kDefaultPartWeight;
  std::optional<float> min_score;
  std::optional<double> min_probability;
};

// The parts of `found`, coarse hits best first, in their final order: by score,
// equal ones by their ids, then as the grounder has them. A final score is
// (1 - weight) * cosine + weight * fine: of the whole item with the query, and
// of the part with its text, both of which are cosines. `cosines` has one per
// coarse hit. An item that was not looked into is one hit with its cosine, or
// none where `min_probability` is above 0.
std::vector<FoundPart> RankParts(const PartRanking& ranking,
                                 absl::Span<const ScoredId> found,
                                 absl::Span<const float> cosines,
                                 const FineScores& scores);

// Why a search for parts may lack some, a sentence each; `stats` is that of
// FindByParts(), if it was called. Errors: kFailedPrecondition where none of
// the items keeps any.
absl::StatusOr<std::vector<std::string>> PartsMissing(
    const PartPlan& plan, const PartRanking& ranking,
    absl::Span<const ScoredId> found, const FineScores& scores,
    const PartIndexStats& stats = {});

}  // namespace quern
