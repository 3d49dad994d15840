#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

#include "engine/base/matrix.h"
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

  int64_t dimension() const { return dimension_; }

  // In [-1, 1] but for rounding. `cells` has rows of dimension() and at least
  // one. Cosines are those of the quantised vectors: within 0.005 of the exact.
  float Score(const QuantizedFeatures& cells) const;

  // The same, number by number: what Score() is tested against.
  float ScoreScalar(const QuantizedFeatures& cells) const;

 private:
  LateInteraction() = default;

  int64_t rows() const;

  int64_t dimension_ = 0;
  int64_t tokens_ = 0;
  // [rows() x dimension]: a row per token, its bytes plus 128, which the
  // instructions for bytes want unsigned on one side; a row of ones, whose
  // products tell what the 128 add; zeros up to a multiple of four rows.
  std::vector<uint8_t> values_;
  std::vector<float> scales_;  // [tokens]
};

}  // namespace quern
