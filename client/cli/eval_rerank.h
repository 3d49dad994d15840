#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

#include "client/cli/captions.h"
#include "client/cli/console.h"
#include "client/cli/fine_options.h"
#include "client/cli/retrieval_metrics.h"
#include "client/cpp/client.h"

namespace quern::cli {

struct RerankEvaluation {
  DirectionMetrics coarse;
  DirectionMetrics reranked;
  std::string stage;     // What scored: "best_part", ...
  int64_t degraded = 0;  // Searches that said so.
  v1::ModelVersion model;
};

// Searches for every caption of `set` in `collection`, whose items have the
// pictures' names as their ids, and compares the order of the hits by the
// coarse scores with their final order. Ties count against the query; a picture
// that is not among the hits has the rank of the last item. Errors: those of
// the search; kFailedPrecondition when the collection has none of the pictures.
absl::StatusOr<RerankEvaluation> EvaluateRerank(const std::string& collection,
                                                const RerankFlags& flags,
                                                const CaptionSet& set,
                                                Client& client,
                                                Console& console);

// The two ranks, from 1, of the item `id` in one search.
struct RerankRanks {
  int64_t coarse = 0;
  int64_t reranked = 0;
};
RerankRanks RanksOf(const std::string& id, const v1::SearchResponse& response);

}  // namespace quern::cli
