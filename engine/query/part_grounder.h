#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/presence.h"
#include "engine/fine/scorer.h"
#include "engine/fine/spatial_relations.h"
#include "engine/model/model.h"

namespace quern {

// One of the things that a phrase speaks of.
struct PlacedThing {
  std::vector<float> embedding;  // [dimension], length one.
  // To the next thing of its phrase; of the last one, to others of its kind.
  SpatialRelation relation = SpatialRelation::kNone;
};

struct PartGrounderOptions {
  int64_t max_parts = 5;  // Of one item; >= 1.
  double nms_iou = 0.5;   // (0, 1].
  // Of the model that made the features; null: parts have no probability.
  std::optional<PresenceCalibration> calibration = std::nullopt;
};

// Finds a text in what is kept of an item's parts: its regions in a picture's
// grid, or its segments in a video's frames. Thread-safe.
class PartGrounder {
 public:
  // `phrase` is not empty; its first thing is what is looked for.
  static PartGrounder Regions(std::vector<PlacedThing> phrase,
                              const PartGrounderOptions& options);
  // `sentence` has length one.
  static PartGrounder Segments(std::vector<float> sentence,
                               const PartGrounderOptions& options);
  // What the moments head of `model` finds (moment_head.h), in place of
  // Segments(). `tokens` ([tokens, dimension], at least one row) are the text.
  static PartGrounder SegmentsByHead(std::shared_ptr<const Model> model,
                                     Matrix tokens,
                                     const PartGrounderOptions& options);

  // The parts as evidence, best first, at least one; score and probability are
  // the best one's, wherever it is. A status of kInvalidArgument on "grid" or
  // "frames" where `parts` has none, or of another dimension; others are those
  // of the head.
  CandidateScore Ground(const PartFeatures& parts) const;

 private:
  PartGrounder(bool in_videos, std::vector<PlacedThing> phrase,
               const PartGrounderOptions& options);

  CandidateScore FindRegions(const PartFeatures& parts) const;
  CandidateScore FindSegments(const PartFeatures& parts) const;
  // `found`, best first and not empty.
  template <typename Found, typename Place>
  CandidateScore AsEvidence(const std::vector<Found>& found, Place place) const;

  bool in_videos_;
  std::vector<PlacedThing> phrase_;    // Empty with a head.
  std::shared_ptr<const Model> head_;  // Null: the generators.
  Matrix tokens_;                      // What the head reads.
  PartGrounderOptions options_;
};

}  // namespace quern
