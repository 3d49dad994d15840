#pragma once

#include <array>
#include <cstdint>

#include "absl/types/span.h"

// Characters as BERT's tokenisers see them: the classes and mappings of Hugging
// Face `tokenizers`, whose tables stem from Unicode 8. Characters that Unicode
// classified later (or otherwise) are treated as the reference treats them, so
// that ids agree. Code points are Unicode scalar values. Thread-safe.

namespace quern {

// Dropped from the text: NUL, U+FFFD, control and format characters, private
// use. Tab, line feed and carriage return are not among them.
bool IsBertDropped(int32_t code_point);

// Unicode's White_Space.
bool IsBertWhitespace(int32_t code_point);

// A word of its own: ASCII symbols and Unicode punctuation.
bool IsBertPunctuation(int32_t code_point);

// A word of its own: CJK ideographs (not kana, not Hangul).
bool IsBertIdeograph(int32_t code_point);

// A nonspacing mark: what is left of an accent after decomposition.
bool IsBertAccent(int32_t code_point);

// The most that one character becomes.
inline constexpr int kMaxMappedCodePoints = 8;

// Code points that a character maps to; `values` past `size` are unspecified.
struct MappedCharacter {
  std::array<int32_t, kMaxMappedCodePoints> values;
  int size = 0;

  absl::Span<const int32_t> span() const {
    return absl::MakeConstSpan(values.data(), size);
  }
};

// Full canonical decomposition, not reordered.
MappedCharacter Decompose(int32_t code_point);

// Full lower-casing without context: a capital sigma always becomes σ.
MappedCharacter Lowercase(int32_t code_point);

}  // namespace quern
