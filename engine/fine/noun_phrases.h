#pragma once

#include <cstddef>
#include <vector>

#include "absl/strings/string_view.h"

namespace quern {

// A part of a sentence: the bytes begin..end-1.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

// The noun phrases of an English sentence, in order: "A black dog runs through
// the deep snow." has "A black dog" and "the deep snow". At most
// `max_phrases`, which is >= 1.
//
// A chunker of rules, without a dictionary of nouns (after Ramshaw and Marcus,
// "Text chunking using transformation-based learning", 1995: non-overlapping
// base noun phrases): function words, punctuation and the forms of some hundred
// common verbs end a phrase; a determiner or a possessive begins one; a word in
// -ing ends one unless it stands behind a determiner ("a running dog"). What is
// left between two ends is a phrase if it has more than determiners. A pronoun
// is none.
//
// Limits: a verb that is not in the list stays in its phrase ("the dog yawns");
// a noun that is also a common verb ("a walk") is kept only right behind a
// determiner; phrases with "of" are two ("a group", "people"); other languages
// than English give arbitrary pieces, but never an error.
std::vector<TextSpan> NounPhrases(absl::string_view sentence,
                                  size_t max_phrases);

}  // namespace quern
