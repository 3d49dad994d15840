#include "engine/text/bert_words.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Words(absl::string_view text,
                               const BertWordOptions& options = {}) {
  std::vector<std::string> words;
  ForEachBertWord(text, options, [&](absl::string_view word, int) {
    words.emplace_back(word);
    return true;
  });
  return words;
}

// The expected words were taken from Hugging Face tokenizers 0.23.3.

TEST(BertWordsTest, SplitsAtWhitespace) {
  EXPECT_THAT(Words("  a dog\tin\r\nthe snow "),
              ElementsAre("a", "dog", "in", "the", "snow"));
  EXPECT_THAT(Words("a\u00A0b\u2003c\u3000d\u2028e"),
              ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_THAT(Words(""), IsEmpty());
  EXPECT_THAT(Words(" \n "), IsEmpty());
}

TEST(BertWordsTest, IsolatesPunctuationAndAsciiSymbols) {
  EXPECT_THAT(Words("don't stop!?"),
              ElementsAre("don", "'", "t", "stop", "!", "?"));
  EXPECT_THAT(Words("a$b^c`d|e~f"), ElementsAre("a", "$", "b", "^", "c", "`",
                                                "d", "|", "e", "~", "f"));
  EXPECT_THAT(Words("¿qué? «x»"), ElementsAre("¿", "que", "?", "«", "x", "»"));
  // Symbols beyond ASCII are no punctuation.
  EXPECT_THAT(Words("5€ 3×4"), ElementsAre("5€", "3×4"));
}

TEST(BertWordsTest, IsolatesIdeographsButNotKanaOrHangul) {
  EXPECT_THAT(Words("雪の犬dog"), ElementsAre("雪", "の", "犬", "dog"));
  EXPECT_THAT(Words("ねこ"), ElementsAre("ねこ"));
  EXPECT_THAT(Words("한국", {.strip_accents = false}), ElementsAre("한국"));
}

TEST(BertWordsTest, DropsControlAndFormatCharacters) {
  EXPECT_THAT(Words(absl::string_view("a\0b", 3)), ElementsAre("ab"));
  EXPECT_THAT(Words("a\u0007b\u200Bc\u00ADd\uFFFDe\uE000f"),
              ElementsAre("abcdef"));
  // Vertical tab, form feed and next line are dropped, not white space.
  EXPECT_THAT(Words("a\vb\fc\u0085d"), ElementsAre("abcd"));
}

TEST(BertWordsTest, StripsAccents) {
  EXPECT_THAT(Words("Crème brûlée Ångström"),
              ElementsAre("creme", "brulee", "angstrom"));
  // Several marks, precomposed and combining.
  EXPECT_THAT(Words("ệ e\u0323\u0302"), ElementsAre("e", "e"));
  EXPECT_THAT(Words("Crème", {.strip_accents = false}), ElementsAre("crème"));
  EXPECT_THAT(Words("Crème", {.lowercase = false}), ElementsAre("Creme"));
}

TEST(BertWordsTest, DecomposesHangulWhereAccentsAreStripped) {
  EXPECT_THAT(Words("한"), ElementsAre("\u1112\u1161\u11AB"));
}

TEST(BertWordsTest, LowercasesWithoutContext) {
  EXPECT_THAT(Words("ΟΔΟΣ"), ElementsAre("οδοσ"));  // No final sigma.
  EXPECT_THAT(Words("İ", {.strip_accents = false}), ElementsAre("i\u0307"));
  EXPECT_THAT(Words("İ"), ElementsAre("i"));
  EXPECT_THAT(Words("ẞ"), ElementsAre("ß"));
  EXPECT_THAT(Words("ДЖ"), ElementsAre("дж"));
}

TEST(BertWordsTest, TreatsNewerCharactersAsTheReferenceDoes) {
  // U+08D4 became a nonspacing mark in Unicode 9, U+2E43 punctuation: to the
  // reference they are parts of words.
  EXPECT_THAT(Words("a\u08D4b"), ElementsAre("a\u08D4b"));
  EXPECT_THAT(Words("a\u2E43b"), ElementsAre("a\u2E43b"));
  // U+166D was punctuation then and no longer is; U+1734 was nonspacing.
  EXPECT_THAT(Words("a\u166Db"), ElementsAre("a", "\u166D", "b"));
  EXPECT_THAT(Words("a\u1734b"), ElementsAre("ab"));
}

TEST(BertWordsTest, CutsLongWordsAndTellsSo) {
  std::vector<int> lengths;
  ForEachBertWord("abc abcd abcdefgh", {.max_characters = 3},
                  [&](absl::string_view word, int characters) {
                    EXPECT_EQ(word.size(), characters);
                    lengths.push_back(characters);
                    return true;
                  });
  EXPECT_THAT(lengths, ElementsAre(3, 4, 4));
}

TEST(BertWordsTest, StopsWhenToldTo) {
  for (absl::string_view text : {"a b c", "a!b", "犬雪", "a雪b"}) {
    int calls = 0;
    ForEachBertWord(text, {}, [&](absl::string_view, int) {
      ++calls;
      return false;
    });
    EXPECT_EQ(calls, 1) << text;
  }
}

}  // namespace
}  // namespace quern
