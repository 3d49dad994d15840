#pragma once

#include <cstdint>

#include "absl/types/span.h"

#include "engine/text/tokenizer.h"

// How texts of many lengths become forward passes of few shapes.

namespace quern {

int64_t TokensIn(absl::Span<const Tokens> texts);

// The next size that kernels are made for: at most an eighth more than `size`,
// which is at least 1.
int64_t RoundUpSize(int64_t size);

// The first texts that make one pass of rows padded to the longest: no more
// rows than `max_rows`, and no more tokens than that many captions; at least
// one text, of at least one.
absl::Span<const Tokens> FirstPaddedPass(absl::Span<const Tokens> texts,
                                         int64_t max_rows);

// The first texts that make one pass of texts that lie one behind the other
// (Krell et al., "Efficient sequence packing without cross-contamination",
// 2021), where `texts` are cut into passes of nearly the same number of tokens,
// about that of `max_rows` captions; at least one text, of at least one.
absl::Span<const Tokens> FirstPackedPass(absl::Span<const Tokens> texts,
                                         int64_t max_rows);

}  // namespace quern
