#include "engine/model/text_passes.h"

#include <algorithm>

#include "absl/numeric/bits.h"

#include "engine/model/encoder.h"

namespace quern {

int64_t TokensIn(absl::Span<const Tokens> texts) {
  int64_t tokens = 0;
  for (const Tokens& text : texts) {
    tokens += static_cast<int64_t>(text.ids.size());
  }
  return tokens;
}

int64_t RoundUpSize(int64_t size) {
  const auto step = static_cast<int64_t>(
      std::max(absl::bit_floor(static_cast<uint64_t>(size)) / 8, uint64_t{1}));
  return (size + step - 1) / step * step;
}

absl::Span<const Tokens> FirstPaddedPass(absl::Span<const Tokens> texts,
                                         int64_t max_rows) {
  const int64_t max_values = max_rows * EncoderTuning::kTextTokens;
  size_t longest = 0;
  size_t rows = 0;
  while (rows < texts.size() && static_cast<int64_t>(rows) < max_rows) {
    longest = std::max(longest, texts[rows].ids.size());
    const auto values = static_cast<int64_t>(longest * (rows + 1));
    if (rows > 0 && values > max_values) break;
    ++rows;
  }
  return texts.first(rows);
}

absl::Span<const Tokens> FirstPackedPass(absl::Span<const Tokens> texts,
                                         int64_t max_rows) {
  const int64_t wanted = max_rows * EncoderTuning::kTextTokens;
  const int64_t all = TokensIn(texts);
  // A pass may be half as long again: a short one behind it would cost more.
  const int64_t passes = std::max<int64_t>((all + wanted / 2) / wanted, 1);
  const int64_t share = (all + passes - 1) / passes;
  int64_t tokens = 0;
  size_t count = 0;
  while (count < texts.size()) {
    const auto more = static_cast<int64_t>(texts[count].ids.size());
    // The cut that is nearer to the share.
    if (count > 0 && tokens + more - share > share - tokens) break;
    tokens += more;
    ++count;
  }
  return texts.first(count);
}

}  // namespace quern
