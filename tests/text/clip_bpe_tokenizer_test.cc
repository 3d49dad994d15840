#include "engine/text/clip_bpe_tokenizer.h"

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/text/bpe_merges.h"
#include "engine/text/clip_words.h"
#include "engine/text/unicode.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kStart = 512;
constexpr int32_t kEnd = 513;
constexpr int32_t kDo = 514;      // "do"
constexpr int32_t kDog = 515;     // "dog</w>"
constexpr int32_t kDogs = 516;    // "gs</w>"
constexpr int32_t kLetterA = 65;  // Of "a", whose byte is 97: "!" has id 0.

constexpr char kMerges[] =
    "#version: 0.2\n"
    "d o\n"
    "do g</w>\n"
    "g s</w>\n";

// The characters of the 256 bytes in the order of CLIP's ids.
std::vector<std::string> ByteTokens() {
  std::vector<int32_t> shown;
  std::vector<int32_t> others;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool is_shown =
        (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
    if (is_shown) {
      shown.push_back(byte);
    } else {
      others.push_back(256 + static_cast<int32_t>(others.size()));
    }
  }
  shown.insert(shown.end(), others.begin(), others.end());
  std::vector<std::string> tokens;
  for (int32_t c : shown) AppendUtf8(c, tokens.emplace_back());
  return tokens;
}

std::string Vocabulary() {
  std::string json = "{";
  int id = 0;
  for (absl::string_view suffix : {"", "</w>"}) {
    for (const std::string& token : ByteTokens()) {
      const std::string escaped =
          absl::StrReplaceAll(token, {{"\\", "\\\\"}, {"\"", "\\\""}});
      absl::StrAppend(&json, "\"", escaped, suffix, "\":", id++, ",");
    }
  }
  for (absl::string_view token :
       {"<|startoftext|>", "<|endoftext|>", "do", "dog</w>", "gs</w>"}) {
    absl::StrAppend(&json, "\"", token, "\":", id++, ",");
  }
  json.back() = '}';
  return json;
}

std::unique_ptr<ClipBpeTokenizer> MakeTokenizer(int64_t max_tokens = 77) {
  auto tokenizer = ClipBpeTokenizer::Create({.vocabulary = Vocabulary(),
                                             .merges = kMerges,
                                             .max_tokens = max_tokens});
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

std::vector<std::string> Words(absl::string_view text) {
  std::vector<std::string> words;
  ForEachClipWord(text, [&](absl::string_view word) {
    words.emplace_back(word);
    return true;
  });
  return words;
}

// The words were taken from the pre-tokeniser of Hugging Face's CLIPTokenizer
// (tokenizers 0.23.3).
TEST(ClipWordsTest, SplitsLettersNumbersAndTheRest) {
  EXPECT_THAT(Words("A dog's 12th, isn't it?!"),
              ElementsAre("a", "dog", "'s", "1", "2", "th", ",", "isn", "'t",
                          "it", "?!"));
  EXPECT_THAT(Words("!'s x"), ElementsAre("!'", "s", "x"));
  EXPECT_THAT(Words(" \n\u3000"), IsEmpty());
  EXPECT_THAT(Words("a\u2003b\u200bc"), ElementsAre("a", "b", "\u200b", "c"));
}

TEST(ClipWordsTest, ComposesAndLowercases) {
  EXPECT_THAT(Words("E\u0301T\u00c9"), ElementsAre("\u00e9t\u00e9"));
  EXPECT_THAT(Words("ΟΔΟΣ"), ElementsAre("οδοσ"));
  // Marks that come in another order: the dot below goes first.
  EXPECT_THAT(Words("s\u0307\u0323"), ElementsAre("\u1e69"));
}

TEST(ClipWordsTest, BreaksAtTheNamesOfSpecialTokens) {
  EXPECT_THAT(
      Words("<|endoftext|><|startoftext|>!"),
      ElementsAre("<|", "endoftext", "|>", "<|", "startoftext", "|>", "!"));
  EXPECT_THAT(Words("<|other|><|"), ElementsAre("<|", "other", "|><|"));
}

TEST(ClipWordsTest, PiecesOfLongTextsDoNotShow) {
  // However long what stands before, the words behind it are the same.
  for (int length : {4090, 4094, 4095, 4096, 4097, 9000}) {
    const std::string head(length, 'x');
    EXPECT_THAT(Words(head + " e\u0301 'll"),
                ElementsAre(head, "\u00e9", "'ll"));
    EXPECT_EQ(Words(std::string(length, ' ') + "e\u0301").size(), 1U);
  }
}

TEST(ClipBpeTokenizerTest, MergesWithinWords) {
  const auto tokenizer = MakeTokenizer();
  EXPECT_THAT(tokenizer->Tokenize("Dog").ids, ElementsAre(kStart, kDog, kEnd));
  EXPECT_THAT(tokenizer->Tokenize("dogs").ids,
              ElementsAre(kStart, kDo, kDogs, kEnd));
  // "a" alone ends a word: its id is 256 further.
  EXPECT_THAT(tokenizer->Tokenize("a").ids,
              ElementsAre(kStart, 256 + kLetterA - 1, kEnd));
}

TEST(ClipBpeTokenizerTest, TheEmptyTextHasTheSpecialTokens) {
  const auto tokenizer = MakeTokenizer();
  for (const char* text : {"", " ", "\t\n\u00a0"}) {
    const Tokens tokens = tokenizer->Tokenize(text);
    EXPECT_THAT(tokens.ids, ElementsAre(kStart, kEnd));
    EXPECT_FALSE(tokens.truncated);
  }
}

TEST(ClipBpeTokenizerTest, TruncationKeepsTheEnd) {
  const auto tokenizer = MakeTokenizer(4);
  const Tokens fits = tokenizer->Tokenize("dog dog");
  EXPECT_THAT(fits.ids, ElementsAre(kStart, kDog, kDog, kEnd));
  EXPECT_FALSE(fits.truncated);
  // In the middle of the last word, and long after.
  for (const std::string& text :
       {std::string("dog dogs"),
        std::string("dog do g ") + std::string(10'000, '!')}) {
    const Tokens tokens = tokenizer->Tokenize(text);
    EXPECT_EQ(tokens.ids.size(), 4U);
    EXPECT_EQ(tokens.ids.back(), kEnd);
    EXPECT_TRUE(tokens.truncated);
  }
}

TEST(ClipBpeTokenizerTest, ThreadsShareOne) {
  const auto tokenizer = MakeTokenizer();
  constexpr char kText[] = "dogs do what dogs do, e\u0301 犬 12";
  const std::vector<int32_t> expected = tokenizer->Tokenize(kText).ids;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(tokenizer->Tokenize(kText).ids, expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

absl::Status ErrorOf(absl::string_view vocabulary, absl::string_view merges) {
  return ClipBpeTokenizer::Create({.vocabulary = vocabulary, .merges = merges})
      .status();
}

TEST(ClipBpeTokenizerTest, RefusesABadVocabulary) {
  const std::string good = Vocabulary();
  const auto with = [&](absl::string_view more) {
    return absl::StrCat(good.substr(0, good.size() - 1), ",", more, "}");
  };
  const std::pair<std::string, std::string> cases[] = {
      {"", "parse error"},
      {"{\"a\": 1", "parse error"},
      {"[1, 2]", "holds an array"},
      {"7", "lacks the token"},
      {"{}", "lacks the token \"<|startoftext|>\""},
      {with("\"x y\": -1"), "\"x y\" whose id is no whole number"},
      {with("\"x y\": 1.5"), "whose id is no whole number"},
      {with("\"x y\": \"1\""), "whose id is no whole number"},
      {with("\"x y\": 4294967296"), "whose id is no whole number"},
      {with("\"x y\": 3"), "the id 3, which another one has"},
      {with("\"do\": 900"), "repeats the token \"do\""},
      {with("\"x y\": {}"), "holds an object"},
      {with("\"x y\": [[[["), "holds an array"},
      {absl::StrReplaceAll(good, {{"\"a</w>\"", "\"not a</w>\""}}),
       "lacks the token \"a</w>\""},
      {std::string(1 << 20, '['), "holds an array"},
      {std::string(1 << 20, '7'), "vocabulary"},
  };
  for (const auto& [vocabulary, message] : cases) {
    const absl::Status status = ErrorOf(vocabulary, kMerges);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr(message)))
        << vocabulary.substr(0, 40);
    EXPECT_EQ(GetField(status), "vocabulary");
  }
}

TEST(ClipBpeTokenizerTest, RefusesBadMerges) {
  const std::pair<const char*, const char*> cases[] = {
      {"d o\nd\n", "line 2 is \"d\"; it must be two tokens"},
      {"d o g", "must be two tokens"},
      {"d \n", "must be two tokens"},
      {"d o\n\ndo g</w>", "line 2 is \"\"; it must be two tokens"},
      {"d o\nd o\n", "line 2 repeats \"d o\""},
      {"d z", "line 1 is \"d z\"; one of the two, or what they merge into"},
      {"dx o", "is not in the vocabulary"},
  };
  for (const auto& [merges, message] : cases) {
    const absl::Status status = ErrorOf(Vocabulary(), merges);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr(message)));
    EXPECT_EQ(GetField(status), "merges");
  }
}

TEST(ClipBpeTokenizerTest, AcceptsLinesOfAnySystem) {
  const auto tokenizer = ClipBpeTokenizer::Create(
      {.vocabulary = Vocabulary(),
       .merges = absl::StrReplaceAll(kMerges, {{"\n", "\r\n"}})});
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_THAT((*tokenizer)->Tokenize("dog").ids,
              ElementsAre(kStart, kDog, kEnd));
}

TEST(ClipBpeTokenizerTest, RefusesNoRoomForText) {
  const auto tokenizer = ClipBpeTokenizer::Create(
      {.vocabulary = Vocabulary(), .merges = kMerges, .max_tokens = 2});
  EXPECT_THAT(tokenizer, StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("2 is less than 3")));
}

// The oracle: look through all neighbours for the best, merge it, begin again.
std::vector<int32_t> MergeSlowly(
    std::vector<int32_t> symbols,
    const std::vector<std::array<int32_t, 3>>& merges) {
  while (true) {
    size_t best = symbols.size();
    size_t best_rank = merges.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank][0] == symbols[i] &&
            merges[rank][1] == symbols[i + 1]) {
          best = i;
          best_rank = rank;
        }
      }
    }
    if (best == symbols.size()) return symbols;
    symbols[best] = merges[best_rank][2];
    symbols.erase(symbols.begin() + best + 1);
  }
}

TEST(BpeMergesTest, AgreesWithASlowOneOnRandomMerges) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    BpeMerges merges;
    std::vector<std::array<int32_t, 3>> list;
    for (int32_t i = 0; i < 12; ++i) {
      const std::array<int32_t, 3> merge = {
          static_cast<int32_t>(random() % (4 + i)),
          static_cast<int32_t>(random() % (4 + i)), 4 + i};
      if (merges.Add(merge[0], merge[1], merge[2])) list.push_back(merge);
    }
    std::vector<int32_t> symbols(random() % 40);
    for (int32_t& symbol : symbols) {
      symbol = static_cast<int32_t>(random() % 4);
    }
    const std::vector<int32_t> expected = MergeSlowly(symbols, list);
    merges.Apply(symbols);
    EXPECT_EQ(symbols, expected);
  }
}

TEST(BpeMergesTest, ALongWordTakesFewSteps) {
  // Pairs, pairs of pairs, and so on: as many merges as there can be.
  BpeMerges merges;
  for (int32_t i = 0; i < 18; ++i) merges.Add(i, i, i + 1);
  constexpr size_t kSymbols = 1 << 18;
  std::vector<int32_t> symbols(kSymbols, 0);
  const int64_t looked_at = merges.Apply(symbols);
  EXPECT_THAT(symbols, ElementsAre(18));
  EXPECT_LE(looked_at, int64_t{3 * kSymbols});
}

TEST(ClipBpeTokenizerTest, SurvivesAMegabyteOfAnything) {
  const auto tokenizer = MakeTokenizer();
  const auto repeated = [](absl::string_view piece) {
    std::string text;
    while (text.size() < 1 << 20) absl::StrAppend(&text, piece);
    return text;
  };
  for (const char* piece :
       {"dog", "!", "1", "'s", "犬", "\u0301\u0323", "\u0323\u0301",
        "e\u0345\u0301", "\u1100\u1161\u11a8", "<|endoftext|>", " "}) {
    const Tokens tokens = tokenizer->Tokenize(repeated(piece));
    EXPECT_LE(tokens.ids.size(), 77U) << piece;
    EXPECT_EQ(tokens.truncated, absl::string_view(piece) != " ") << piece;
  }
}

}  // namespace
}  // namespace quern
