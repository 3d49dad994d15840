#include "engine/text/wordpiece_tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/utf8.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kUnknown = 1;
constexpr int kStart = 2;
constexpr int kEnd = 3;

// Ids are line numbers.
constexpr char kVocabulary[] =
    "[PAD]\n"  // 0
    "[UNK]\n"
    "[CLS]\n"
    "[SEP]\n"
    "a\n"    // 4
    "dog\n"  // 5
    "##s\n"  // 6
    "##house\n"
    "do\n"  // 8
    "##ghou\n"
    "##use\n"  // 10
    "!\n"
    "[\n"  // 12
    "]\n"
    "mask\n"  // 14
    "雪\n"
    "##é\n";  // 16

std::unique_ptr<WordPieceTokenizer> MakeTokenizer(
    WordPieceTokenizer::Options options = {}) {
  if (options.vocabulary.empty()) options.vocabulary = kVocabulary;
  auto tokenizer = WordPieceTokenizer::Create(std::move(options));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
}

std::vector<int32_t> Ids(absl::string_view text) {
  return MakeTokenizer()->Tokenize(text).ids;
}

// Any code point but a surrogate, half of them below U+0800.
uint32_t RandomScalarValue(std::mt19937& random) {
  const uint32_t value = random() % (random() % 2 == 0 ? 0x800 : 0x110000);
  return value >= 0xD800 && value < 0xE000 ? 0xFFFD : value;
}

void AppendUtf8(uint32_t value, std::string& text) {
  const auto append = [&text](uint32_t byte) {
    text.push_back(static_cast<char>(byte));
  };
  const auto append_rest = [&](int shift) {
    for (; shift >= 0; shift -= 6) append(0x80 | (value >> shift & 0x3F));
  };
  if (value < 0x80) {
    append(value);
  } else if (value < 0x800) {
    append(0xC0 | value >> 6);
    append_rest(0);
  } else if (value < 0x10000) {
    append(0xE0 | value >> 12);
    append_rest(6);
  } else {
    append(0xF0 | value >> 18);
    append_rest(12);
  }
}

TEST(WordPieceTokenizerTest, FramesTheTextWithSpecialTokens) {
  EXPECT_THAT(Ids("a dog!"), ElementsAre(kStart, 4, 5, 11, kEnd));
  EXPECT_THAT(Ids(""), ElementsAre(kStart, kEnd));
}

TEST(WordPieceTokenizerTest, TakesTheLongestPieceFirst) {
  EXPECT_THAT(Ids("dogs doghouse"), ElementsAre(kStart, 5, 6, 5, 7, kEnd));
}

TEST(WordPieceTokenizerTest, ReplacesTheWholeWordWhenItsRestIsUnknown) {
  // "do" + "##ghou" + "##se" would fit, but the greedy start is "dog".
  EXPECT_THAT(Ids("doghou"), ElementsAre(kStart, kUnknown, kEnd));
  EXPECT_THAT(Ids("dogz a"), ElementsAre(kStart, kUnknown, 4, kEnd));
  EXPECT_THAT(Ids("house"), ElementsAre(kStart, kUnknown, kEnd));
}

TEST(WordPieceTokenizerTest, CutsPiecesAtCharacters) {
  EXPECT_THAT(Ids("雪雪"), ElementsAre(kStart, 15, 15, kEnd));
  const auto tokenizer =
      MakeTokenizer({.vocabulary = "", .strip_accents = false});
  EXPECT_THAT(tokenizer->Tokenize("dogés").ids,
              ElementsAre(kStart, 5, 16, 6, kEnd));
  // è shares its first byte with é.
  EXPECT_THAT(tokenizer->Tokenize("dogè").ids,
              ElementsAre(kStart, kUnknown, kEnd));
}

TEST(WordPieceTokenizerTest, ReadsSpecialTokensInTheTextAsPlainText) {
  EXPECT_THAT(Ids("[MASK]"), ElementsAre(kStart, 12, 14, 13, kEnd));
  EXPECT_THAT(Ids("[SEP]"), ElementsAre(kStart, 12, kUnknown, 13, kEnd));
}

TEST(WordPieceTokenizerTest, ReplacesWordsOfMoreThanHundredCharacters) {
  const auto tokenizer = MakeTokenizer(
      {.vocabulary = "[UNK]\n[CLS]\n[SEP]\na\n##a\n", .max_tokens = 200});
  const Tokens fits = tokenizer->Tokenize(std::string(100, 'a'));
  EXPECT_EQ(fits.ids.size(), 102);
  EXPECT_THAT(tokenizer->Tokenize(std::string(101, 'a')).ids,
              ElementsAre(1, 0, 2));
}

TEST(WordPieceTokenizerTest, TruncatesAndSaysSo) {
  const auto tokenizer = MakeTokenizer({.vocabulary = "", .max_tokens = 5});
  EXPECT_EQ(tokenizer->max_tokens(), 5);
  const Tokens fits = tokenizer->Tokenize("a a a");
  EXPECT_THAT(fits.ids, ElementsAre(kStart, 4, 4, 4, kEnd));
  EXPECT_FALSE(fits.truncated);
  EXPECT_FALSE(tokenizer->Tokenize("a a a \n\u200B").truncated);
  const Tokens cut = tokenizer->Tokenize("a a dogs a");
  EXPECT_THAT(cut.ids, ElementsAre(kStart, 4, 4, 5, kEnd));  // Within a word.
  EXPECT_TRUE(cut.truncated);
}

TEST(WordPieceTokenizerTest, ReadsAMegabyte) {
  std::string text;
  while (text.size() < (1 << 20)) absl::StrAppend(&text, "dogs ");
  const auto tokenizer = MakeTokenizer();
  const Tokens words = tokenizer->Tokenize(text);
  EXPECT_EQ(words.ids.size(), 256);
  EXPECT_TRUE(words.truncated);
  const Tokens one_word = tokenizer->Tokenize(std::string(1 << 20, 'a'));
  EXPECT_THAT(one_word.ids, ElementsAre(kStart, kUnknown, kEnd));
  EXPECT_FALSE(one_word.truncated);
}

void ExpectWellFormed(const Tokens& tokens) {
  ASSERT_GE(tokens.ids.size(), 2);
  ASSERT_LE(tokens.ids.size(), 256);
  ASSERT_EQ(tokens.ids.front(), kStart);
  ASSERT_EQ(tokens.ids.back(), kEnd);
}

TEST(WordPieceTokenizerTest, SurvivesRandomCharacters) {
  const auto tokenizer = MakeTokenizer();
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (uint32_t left = random() % 300; left > 0; --left) {
      AppendUtf8(RandomScalarValue(random), text);
    }
    ASSERT_TRUE(IsValidUtf8(text));
    ExpectWellFormed(tokenizer->Tokenize(text));
  }
}

// Such text breaks the contract, yet must not crash.
TEST(WordPieceTokenizerTest, SurvivesRandomBytes) {
  const auto tokenizer = MakeTokenizer();
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    ExpectWellFormed(tokenizer->Tokenize(bytes));
  }
}

TEST(WordPieceTokenizerTest, AcceptsWindowsLineEndsAndAMissingLastOne) {
  const auto tokenizer =
      MakeTokenizer({.vocabulary = "[UNK]\r\n[CLS]\r\n[SEP]\r\na"});
  EXPECT_THAT(tokenizer->Tokenize("a").ids, ElementsAre(1, 3, 2));
}

TEST(WordPieceTokenizerTest, RefusesBadVocabularies) {
  struct Case {
    std::string vocabulary;
    std::string message;
  };
  const Case cases[] = {
      {"[UNK]\n[CLS]\na\n", "lacks the token [SEP]"},
      {"[UNK]\n[CLS]\n[SEP]\na\na\n", "line 5 repeats the token \"a\""},
      {"[UNK]\n\n[CLS]\n[SEP]\n", "line 2 is empty"},
      {"", "line 1 is empty"},
  };
  for (const Case& bad : cases) {
    const auto tokenizer =
        WordPieceTokenizer::Create({.vocabulary = bad.vocabulary});
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(tokenizer.status().message(), HasSubstr(bad.message));
  }
}

TEST(WordPieceTokenizerTest, RefusesALimitWithoutRoomForAToken) {
  const auto tokenizer =
      WordPieceTokenizer::Create({.vocabulary = kVocabulary, .max_tokens = 2});
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(tokenizer.status().message(),
              HasSubstr("max_tokens: 2 is less than 3"));
}

}  // namespace
}  // namespace quern
