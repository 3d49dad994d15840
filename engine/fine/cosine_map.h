#pragma once

#include <cstdint>

#include "absl/types/span.h"

#include "engine/base/matrix.h"

namespace quern {

// Writes to `scores` the cosine of every row of `cells` with `query`, which has
// length one; a row of zeros has the cosine 0. This is the map that all of
// grounding reads: cells of a picture, or frames of a video (Zhou et al.,
// "Extract Free Dense Labels from CLIP", 2022, section 3.2, without the
// softmax). `query` has as many values as `cells` columns, `scores` as many as
// it has rows; all finite.
//
// Sums are of single precision in 16 to 64 lanes, which the compiler turns into
// the vector instructions that the processor has; within 1e-5 of the exact
// cosine.
void CosineMap(const MatrixView& cells, absl::Span<const float> query,
               absl::Span<float> scores);

// The cosine of `query`, of any length, with the sum of some rows of `cells`,
// each taken with length one; 0 where that is no direction.
double PooledCosine(const MatrixView& cells, absl::Span<const int64_t> rows,
                    absl::Span<const float> query);

// The sum of the row's squares, within 1e-6 of it, relatively.
double SquaredNorm(absl::Span<const float> row);

// sum += scale * row. `sum` is as long as `row`, and does not overlap it.
void AddScaled(absl::Span<const float> row, float scale, absl::Span<float> sum);

}  // namespace quern
