#pragma once

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace quern {

struct BertWordOptions {
  bool lowercase = true;
  bool strip_accents = true;  // Decompose, then drop nonspacing marks.
  int max_characters = 100;   // Longest word that is delivered whole; >= 1.
};

// Normalises `text` (UTF-8) and splits it at white space; punctuation marks and
// ideographs are words of their own. Calls `visit` with each word, never empty,
// in order, until it returns false. A word of more than max_characters comes as
// its first max_characters + 1, so a visitor can tell; memory stays bounded
// whatever the text is.
//
// This is BERT's basic tokeniser with one step left out: marks are not brought
// into canonical order, because those that would move are dropped anyway, but
// for a few spacing ones.
void ForEachBertWord(
    absl::string_view text, const BertWordOptions& options,
    absl::FunctionRef<bool(absl::string_view word, int characters)> visit);

}  // namespace quern
