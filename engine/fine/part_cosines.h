#pragma once

#include <vector>

#include "absl/types/span.h"

#include "engine/fine/byte_products.h"
#include "engine/fine/item_parts.h"

namespace quern {

// One vector beside the parts of many items, in either form in which they are
// kept. Thread-safe.
class PartCosines {
 public:
  PartCosines() = default;
  // `query` has length one.
  explicit PartCosines(absl::Span<const float> query);

  int64_t dimension() const { return products_.dimension(); }

  // Sets `cosines` to that of each row with the query, of compressed features
  // with what is kept of the row. Within 0.005 of the quantised rows' own: the
  // query is quantised too, since sums of integers, unlike those of floats, may
  // be added up in any order and so several at a time. `parts` has
  // dimension() columns.
  void Of(const PartsView& parts, std::vector<float>& cosines) const;

 private:
  ByteProducts products_;
  float scale_ = 0;  // Of the query's bytes.
};

// The sum of the rows, each times its weight: [columns].
std::vector<float> WeightedRows(const PartsView& parts,
                                absl::Span<const float> weights);

}  // namespace quern
