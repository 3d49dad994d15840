#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// What the tokenisers need of Unicode beyond utf8proc's own functions. Code
// points are Unicode scalar values; texts are UTF-8 that the caller has checked
// (see IsValidUtf8). Thread-safe.

namespace quern {

// Replaces `code_points` by those of `text`; stops at what is not UTF-8.
void DecodeUtf8(absl::string_view text, std::vector<int32_t>& code_points);
void AppendUtf8(int32_t code_point, std::string& text);

// Unicode's White_Space.
bool IsUnicodeSpace(int32_t code_point);

// To the form NFC, in time that is linear but for the sorting of each run of
// marks: utf8proc's own composition is quadratic in such a run.
void ComposeCanonically(std::vector<int32_t>& code_points);

// The lower case of one character without its context (Σ is always σ), as
// Unicode 17 has it: one code point, or two for İ.
void AppendLowercase(int32_t code_point, std::vector<int32_t>& lower);

// As Python's str.lower(): like AppendLowercase, but a Σ that ends a word
// becomes ς (Unicode's Final_Sigma).
void LowercaseWithContext(std::vector<int32_t>& code_points);

}  // namespace quern
