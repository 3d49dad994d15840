#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"

namespace quern {

// Feature vectors of an item's parts in a sixth of a byte a number: what the
// cells of one picture, or the frames of a shot, have in common is kept once.
// Rows come in blocks of at most kMaxBlockRows. In a block, row r is the sum
// over k below its rank of
//   scales[k] * coefficients[k][r] * basis[k],
// the largest singular vectors of the block, one after the other, each of what
// the rounded ones before it have left over. Nothing is trained, and nothing
// but these bytes is needed to read them.
struct CompressedFeatures {
  struct Block {
    int64_t rows = 0;  // 1 to kMaxBlockRows.
    int64_t rank = 0;  // 1 to kMaxBlockRank.
  };
  static constexpr int64_t kMaxBlockRows = 64;
  static constexpr int64_t kMaxBlockRank = 32;
  static constexpr int8_t kLargestBasis = 7;  // Four bits.

  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<Block> blocks;         // Their rows add up to `rows`.
  std::vector<float> scales;         // [ranks], finite and not negative.
  std::vector<int8_t> coefficients;  // Of each block [rank x rows], -127..127.
  std::vector<int8_t> basis;         // [ranks x columns], -7..7.

  int64_t ranks() const { return static_cast<int64_t>(scales.size()); }
};

// Every row scaled to the length one; a row of zeros stays one. `features` is
// finite. Takes about 0.5 ms for 49 rows of 512 columns.
CompressedFeatures CompressUnitRows(MatrixView features);

// The rows as floats: [rows x columns].
Matrix Decompress(const CompressedFeatures& features);

// As bytes; README.md has the table.
std::string EncodeFeatures(const CompressedFeatures& features);

// Whether the bytes are of this form, rather than of QuantizedFeatures.
bool IsCompressed(absl::string_view bytes);

// The inverse of EncodeFeatures(), into `features`, whose memory is used again.
// Errors: kDataLoss for bytes that EncodeFeatures() cannot have written.
absl::Status DecodeFeatures(absl::string_view bytes,
                            CompressedFeatures& features);

}  // namespace quern
