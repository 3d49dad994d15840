#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/late_interaction.h"
#include "engine/fine/part_cosines.h"
#include "engine/index/vector_index.h"
#include "engine/query/fine_scores.h"
#include "engine/store/item_store.h"

// The fine stage of a search: what is kept of the candidates' parts, against
// the query.

namespace quern {

enum class RerankMethod {
  kBest,             // The best that the model and the query allow.
  kLateInteraction,  // A text's tokens against cells or frames.
  kMatch,            // The model's match head.
  kRemote,           // Scorers elsewhere.
  kBestPart,         // The query's vector against its best part.
};

struct RerankOptions {
  RerankMethod method = RerankMethod::kBest;
  int64_t depth = 100;          // Candidates that are scored, 1 to 10,000.
  std::optional<float> weight;  // Share of the fine score, in [0, 1].
};

// Without a weight. The first was chosen on Flickr8k dev, see fine/README.md;
// no shipped model has features for the second, nor a match head, and what a
// scorer elsewhere is worth only its operator knows.
inline constexpr float kDefaultBestPartWeight = 0.3F;
inline constexpr float kDefaultLateInteractionWeight = 0.5F;
inline constexpr float kDefaultScorerWeight = 0.5F;

// A query as parts are compared with it. Thread-safe.
class PartScorer {
 public:
  // By the vector: a picture's score is the cosine with the mean of its cells,
  // a video's that with the mean of its frames, either weighted by how well
  // each fits the query (PoolFramesForQuery()). `query` is not zero.
  static absl::StatusOr<PartScorer> BestPart(std::vector<float> query);

  // By the tokens of a text, [tokens x dimension]; `query` is its vector, for
  // the evidence.
  static absl::StatusOr<PartScorer> ByTokens(MatrixView tokens,
                                             std::vector<float> query);

  // "late_interaction" or "best_part": the name of the stage.
  absl::string_view stage() const;
  float default_weight() const;

  // What the parts of one item say.
  struct Found {
    float score = 0;
    Evidence evidence;  // The cell or frame nearest to the query, its cosine.
  };

  // Of either form of features. Errors: kInvalidArgument when `parts` is of
  // another dimension, or its features cancel out.
  absl::StatusOr<Found> Find(const PartsView& parts) const;

  // Find() for those who want one of the two. `parts` has been scored where the
  // evidence is asked for.
  absl::StatusOr<float> Score(const PartsView& parts) const;
  Evidence BestEvidence(const PartsView& parts) const;

 private:
  PartScorer() = default;

  PartCosines cosines_;
  std::vector<float> query_;               // [dimension], length one.
  std::optional<LateInteraction> tokens_;  // Null: by the vector.
};

// A candidate of the coarse search on its way through the fine stage.
struct Candidate {
  std::string id;
  float coarse = 0;
  std::optional<float> fine;  // Null: it has no parts.
  bool is_video = false;
  float score = 0;  // Final.
  // As the scorer has them; a PartScorer has no probability.
  std::optional<float> probability = std::nullopt;
  std::vector<Evidence> evidence = {};
};

// Sets the final scores: (1 - weight) * coarse + weight * fine, where the fine
// scores of the pictures, and those of the videos, have been moved and scaled
// to mean and standard deviation of the same candidates' coarse scores, since
// neither is comparable with the other as it is. So a final score is in the
// coarse one's units, a candidate without parts keeps its coarse score, and
// where the fine scores are all the same the coarse order stays.
void BlendScores(float weight, absl::Span<Candidate> candidates);

struct Reranked {
  std::vector<Candidate> candidates;  // Best first; equal ones by their ids.
  std::vector<std::string> degraded_reasons;
};

// Re-orders `found`, coarse hits best first, by the parts of the first
// options.depth of them. When the stage has used four fifths of the time left
// to the call, it gives up: the coarse order comes back, with the reason.
// Errors: those of the store; kCancelled.
absl::StatusOr<Reranked> Rerank(const RequestContext& context,
                                const RerankOptions& options,
                                const PartScorer& scorer,
                                const ItemStore& store,
                                absl::Span<const ScoredId> found);

// The same with scores that a FineStage brought, or why there are none: then
// the coarse order comes back, with the reason.
Reranked RerankBy(const RerankOptions& options,
                  const absl::StatusOr<FineScores>& scores,
                  absl::Span<const ScoredId> found);

}  // namespace quern
