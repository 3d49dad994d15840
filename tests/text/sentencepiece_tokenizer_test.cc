#include "engine/text/sentencepiece_tokenizer.h"

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/text/sentencepiece_library.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ids of both models in tests/data/tokenizers.
constexpr int32_t kEos = 1;
constexpr int32_t kBos = 3;  // Of bpe.model; unigram.model has none.

const std::string& Unigram() {
  static const auto* const model =
      new std::string(*ReadFile("tests/data/tokenizers/unigram.model"));
  return *model;
}

const std::string& Bpe() {
  static const auto* const model =
      new std::string(*ReadFile("tests/data/tokenizers/bpe.model"));
  return *model;
}

std::unique_ptr<SentencePieceTokenizer> MakeTokenizer(
    const SentencePieceTokenizer::Options& options) {
  auto tokenizer = SentencePieceTokenizer::Create(options);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

absl::Status ErrorOf(const SentencePieceTokenizer::Options& options) {
  return SentencePieceTokenizer::Create(options).status();
}

TEST(SentencePieceTokenizerTest, AddsWhatItIsToldTo) {
  const Tokens plain =
      MakeTokenizer({.model = Bpe(), .add_eos = false})->Tokenize("dog");
  std::vector<int32_t> expected = plain.ids;
  expected.insert(expected.begin(), kBos);
  expected.push_back(kEos);
  EXPECT_EQ(
      MakeTokenizer({.model = Bpe(), .add_bos = true})->Tokenize("dog").ids,
      expected);
  EXPECT_THAT(MakeTokenizer({.model = Unigram()})->Tokenize("").ids,
              ElementsAre(kEos));
}

TEST(SentencePieceTokenizerTest, TruncationKeepsTheEnd) {
  const auto tokenizer =
      MakeTokenizer({.model = Bpe(), .add_bos = true, .max_tokens = 4});
  const Tokens fits = tokenizer->Tokenize("12");
  EXPECT_EQ(fits.ids.size(), 4U);
  EXPECT_FALSE(fits.truncated);
  const Tokens tokens = tokenizer->Tokenize("123");
  ASSERT_EQ(tokens.ids.size(), 4U);
  EXPECT_EQ(tokens.ids[1], fits.ids[1]);
  EXPECT_EQ(tokens.ids.front(), kBos);
  EXPECT_EQ(tokens.ids.back(), kEos);
  EXPECT_TRUE(tokens.truncated);
}

TEST(SentencePieceTokenizerTest, RemovesPunctuationAndCase) {
  const auto tokenizer = MakeTokenizer(
      {.model = Unigram(), .lowercase = true, .remove_punctuation = true});
  EXPECT_EQ(tokenizer->Tokenize("A (brown) Dog's_tail!").ids,
            tokenizer->Tokenize("a brown\n\u00a0 dogstail ").ids);
  EXPECT_NE(tokenizer->Tokenize("a dog\u2019s").ids,
            tokenizer->Tokenize("a dogs").ids);  // Not ASCII: it stays.
}

TEST(SentencePieceTokenizerTest, ANameOfASpecialTokenIsText) {
  const auto tokenizer = MakeTokenizer({.model = Bpe()});
  const Tokens tokens = tokenizer->Tokenize("a </s> b");
  EXPECT_EQ(std::count(tokens.ids.begin(), tokens.ids.end(), kEos), 1);
}

TEST(SentencePieceTokenizerTest, RefusesOptionsThatDoNotFit) {
  EXPECT_EQ(GetField(ErrorOf({.model = Unigram(), .add_bos = true})),
            "add_bos");
  EXPECT_THAT(ErrorOf({.model = Unigram(), .max_tokens = 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("is 1; it must be more than the 1")));
  EXPECT_EQ(GetField(ErrorOf({.model = Bpe(), .max_tokens = -5})),
            "max_tokens");
}

TEST(SentencePieceTokenizerTest, RefusesADamagedModel) {
  const std::string& whole = Unigram();
  for (size_t size : {size_t{0}, size_t{1}, size_t{100}, whole.size() / 2,
                      whole.size() - 1}) {
    const absl::Status status = ErrorOf({.model = whole.substr(0, size)});
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 HasSubstr("no SentencePiece model")))
        << size;
    EXPECT_EQ(GetField(status), "model");
  }
  for (const char* other : {"not a model", "\xff\xff\xff\xff", "{}"}) {
    EXPECT_EQ(GetField(ErrorOf({.model = other})), "model") << other;
  }
}

// A flipped byte makes another model, or none; it never breaks the reader.
TEST(SentencePieceTokenizerTest, SurvivesFlippedBytes) {
  for (const std::string* whole : {&Unigram(), &Bpe()}) {
    for (size_t i = 0; i < whole->size(); i += whole->size() / 41) {
      std::string model = *whole;
      model[i] = static_cast<char>(~model[i]);
      const auto tokenizer =
          SentencePieceTokenizer::Create({.model = model, .add_eos = false});
      if (!tokenizer.ok()) continue;
      const Tokens tokens = (*tokenizer)->Tokenize("A dog's ½ 犬 ﬁ e\u0301");
      EXPECT_LE(tokens.ids.size(), 64U);
    }
  }
}

// A field of a protocol buffer with a length, for fewer than 128 bytes.
std::string Field(int number, const std::string& bytes) {
  return absl::StrCat(std::string(1, static_cast<char>(number << 3 | 2)),
                      std::string(1, static_cast<char>(bytes.size())), bytes);
}

std::string Float(float value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

// ModelProto.pieces: the piece, its score, its type.
std::string Piece(const std::string& piece, float score, int type) {
  return Field(1, Field(1, piece) + "\x15" + Float(score) + "\x18" +
                      static_cast<char>(type));
}

constexpr int kNormal = 1;
constexpr int kUnknown = 2;
constexpr int kUserDefined = 4;

TEST(SentencePieceTokenizerTest, RefusesWhatTheLibraryTakesOnTrust) {
  const std::string unknown = Piece("<unk>", 0, kUnknown);
  EXPECT_THAT(
      ErrorOf({.model = unknown + Piece("a", -1, kNormal), .add_eos = false}),
      IsOk());
  const std::pair<std::string, const char*> cases[] = {
      {Piece("a", -1, kNormal), "unk is not defined"},
      {unknown + Piece("", -1, kNormal), "must not be empty"},
      {unknown + Piece("a", -1, kNormal) + Piece("a", -2, kNormal),
       "already defined"},
      {unknown + Piece(std::string("a\0b", 3), -1, kNormal), "NUL"},
      {unknown + Piece("a", NAN, kNormal), "piece 1 has a score"},
      {unknown + Piece("a", -INFINITY, kNormal), "piece 1 has a score"},
  };
  for (const auto& [model, message] : cases) {
    EXPECT_THAT(
        ErrorOf({.model = model, .add_eos = false}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
  std::string nested = unknown;
  for (int length = 1; length <= 65; ++length) {
    nested += Piece(std::string(length, 'a'), 0, kUserDefined);
  }
  EXPECT_THAT(ErrorOf({.model = nested, .add_eos = false}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("user-defined pieces start alike")));
}

std::string Units(const std::vector<uint32_t>& units) {
  std::string bytes(units.size() * sizeof(uint32_t), '\0');
  std::memcpy(bytes.data(), units.data(), bytes.size());
  return bytes;
}

std::string CharsMap(std::vector<uint32_t> units, const std::string& strings) {
  units.insert(units.begin(),
               static_cast<uint32_t>(units.size() * sizeof(uint32_t)));
  return Units(units) + strings;
}

TEST(CharsMapTest, OnlyWhatStaysWithinItsBytesIsSound) {
  // One rule: "a" (97) leads to the string at 0. The root's children lie at
  // 256 XOR their byte, the rule's own from 512 on, its value there.
  constexpr uint32_t kHasValue = 1 << 8;
  const auto offset = [](uint32_t distance) { return distance << 10; };
  std::vector<uint32_t> units(768, 0);
  units[0] = offset(256);
  units[256 + 97] = 97 | kHasValue | offset((256 + 97) ^ 512);
  units[512] = uint32_t{1} << 31;  // Value 0.
  const std::string strings("b\0", 2);
  EXPECT_TRUE(IsSoundCharsMap(CharsMap(units, strings)));
  EXPECT_FALSE(IsSoundCharsMap(""));
  EXPECT_FALSE(IsSoundCharsMap(CharsMap({}, strings)));
  EXPECT_FALSE(IsSoundCharsMap(CharsMap(units, "")));
  EXPECT_FALSE(IsSoundCharsMap(CharsMap(units, "b")));  // It does not end.

  std::vector<uint32_t> beyond = units;
  beyond[256 + 97] = 97 | kHasValue | offset(1 << 20);
  EXPECT_FALSE(IsSoundCharsMap(CharsMap(beyond, strings)));
  std::vector<uint32_t> value_beyond = units;
  value_beyond[512] = uint32_t{1} << 31 | 2;
  EXPECT_FALSE(IsSoundCharsMap(CharsMap(value_beyond, strings)));
  std::vector<uint32_t> endless = units;
  endless[256 + 97] = 97 | offset(97);  // "a" leads to its own row again.
  EXPECT_FALSE(IsSoundCharsMap(CharsMap(endless, strings)));
}

TEST(SentencePieceTokenizerTest, ThreadsShareOne) {
  constexpr char kText[] = "A brown dog's 12 friends, 犬 e\u0301";
  const auto tokenizer = MakeTokenizer(
      {.model = Unigram(), .lowercase = true, .remove_punctuation = true});
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

TEST(SentencePieceTokenizerTest, SurvivesLongTexts) {
  struct Case {
    const char* piece;
    size_t bytes;
  };
  constexpr size_t kMegabyte = 1 << 20;
  constexpr size_t kLongestByDefault = 1 << 16;  // limits.max_text_bytes
  for (const std::string* model : {&Unigram(), &Bpe()}) {
    const auto tokenizer = MakeTokenizer(
        {.model = *model, .lowercase = true, .remove_punctuation = true});
    for (const Case& test_case : {Case{"dog", kMegabyte},
                                  {"Σ", kLongestByDefault},
                                  {"\u0301", kLongestByDefault},
                                  {"\u2581", kMegabyte},
                                  {"a ", kLongestByDefault}}) {
      std::string text;
      while (text.size() < test_case.bytes) text += test_case.piece;
      const Tokens tokens = tokenizer->Tokenize(text);
      EXPECT_LE(tokens.ids.size(), 64U) << test_case.piece;
    }
  }
}

}  // namespace
}  // namespace quern
