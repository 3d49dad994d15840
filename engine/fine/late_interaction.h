#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

#include "engine/base/matrix.h"
#include "engine/fine/byte_products.h"
#include "engine/fine/compressed_features.h"
#include "engine/fine/quantized_features.h"

namespace quern {

// Fine-grained interaction of a text's tokens with the cells of a picture or
// the frames of a video: the mean over the tokens of the greatest cosine with
// any cell (FILIP, Yao et al. 2022, eq. 1-2, text to image). Thread-safe.
class LateInteraction {
 public:
  // `tokens` is [tokens x dimension], any lengths but zero. Errors:
  // kInvalidArgument without tokens, and for one that is zero or not finite.
  static absl::StatusOr<LateInteraction> Create(MatrixView tokens);

  int64_t dimension() const { return products_.dimension(); }

  // In [-1, 1] but for rounding. `cells` has rows of dimension() and at least
  // one. Cosines are those of the quantised vectors: within 0.005 of the exact.
  float Score(const QuantizedView& cells) const;

  // The same of compressed cells. The tokens are multiplied with each block's
  // basis, not with its rows.
  float Score(const CompressedFeatures& cells) const;

  // The same, number by number: what Score() is tested against.
  float ScoreScalar(const QuantizedView& cells) const;
  float ScoreScalar(const CompressedFeatures& cells) const;

 private:
  LateInteraction() = default;

  // Of each token's greatest product.
  float MeanOf(const float* best) const;

  ByteProducts products_;
  QuantizedFeatures tokens_;
};

}  // namespace quern
