#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/fine/evidence.h"
#include "engine/fine/presence.h"
#include "engine/fine/score_map.h"
#include "engine/fine/spatial_relations.h"

namespace quern {

// A picture's grid, borrowed: a row per cell, row-major, not normalised.
struct GridView {
  MatrixView cells;    // height * width rows.
  int64_t height = 0;  // Cells; >= 1.
  int64_t width = 0;   // Cells; >= 1.
};

// A box in which a phrase's thing may be.
struct GroundedRegion {
  Box box;
  double score = 0;  // Higher is better; comparable within one grid.
  PresenceFeatures features;
};

// A phrase with its words of place taken out of it (spatial_relations.h), and
// the embeddings that are looked for.
struct PhraseQuery {
  // [dimension], length one: of the phrase's subject.
  absl::Span<const float> embedding;
  SpatialRelation relation = SpatialRelation::kNone;
  // Null: in relation to the others of the phrase's kind.
  const PhraseQuery* object = nullptr;
  // What Propose() gave for the embedding, scores changed or not; null: it is
  // asked.
  const std::vector<GroundedRegion>* proposals = nullptr;
};

// Finds phrases in one picture. Thread-safe once made.
//
// Life of a phrase:
//   1. Map: cosine of every cell with it, averaged over the cell's neighbours.
//   2. Peaks: the best cells, apart from each other.
//   3. For each peak, how much every other cell looks like it: what belongs to
//      one thing looks alike, whatever the text says of it. This map and that
//      of the text, both standardised, are added.
//   4. The box round the peak, of all boxes of cells, with the greatest
//      sum(s - a) / area^g: cells above the average by `a` deviations are worth
//      having; the root of the area keeps the box from growing where nothing
//      ends it. By an integral image.
//   5. Its edges are moved on the map at twice its resolution, as long as that
//      improves it.
//   6. Score: the map at the peak, and its mean within the box less that
//      outside; then relations, then suppression of what overlaps.
//
// Measured on mosaics of four photos, of nine, and of four of unequal sizes,
// Acc@0.5 with the text's map alone (the best box by sum(s - mean - deviation /
// 2), exact) 75.7 / 45.3 / 69.7, with this 78.0 / 62.3 / 71.7 (n = 300 each).
// Subtracting the mean over other texts (ReCLIP's distractors) changed nothing
// there: cells are compared with each other, not texts.
class RegionGrounder {
 public:
  // The grid, whose values are finite, must outlive it.
  explicit RegionGrounder(const GridView& grid);

  // Best first, at most `max_regions`, none with an IoU of `nms_iou` or more
  // with a better one. Never empty: whether something is there is for the
  // calibration to say.
  std::vector<GroundedRegion> Ground(const PhraseQuery& query,
                                     int64_t max_regions, double nms_iou) const;

  // Steps 1 to 6 without relations and suppression: a box a peak, by falling
  // score of the peak; at least one. `embedding` is as PhraseQuery's. Where
  // `is_related` a relation is to choose among them, and there are more.
  std::vector<GroundedRegion> Propose(absl::Span<const float> embedding,
                                      bool is_related = false) const;

 private:
  // Before suppression, with the relations in their scores. `is_object`: of
  // another phrase's relation.
  std::vector<GroundedRegion> Candidates(const PhraseQuery& query,
                                         bool is_object) const;

  double Pooled(const Box& box, absl::Span<const float> embedding) const;

  // How much each cell looks like `cell`.
  ScoreMap LooksLike(int64_t cell) const;

  const GridView grid_;
  // The cells, each taken with length one, less their mean: so they differ by
  // what they show, not by what all of the picture shows.
  const Matrix centred_;
  const std::vector<float> scales_;  // That give its rows length one.
};

}  // namespace quern
