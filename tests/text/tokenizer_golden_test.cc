// Ids equal, text by text, to those of the reference implementations; see
// tests/data/tokenizers/make_golden.py, which wrote the files. To compare on
// another vocabulary: make_golden.py --clip FOLDER --output FOLDER, then
// QUERN_TOKENIZER_GOLDEN=FOLDER.

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

#include "engine/base/file.h"
#include "engine/text/clip_bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/wordpiece_tokenizer.h"

namespace quern {
namespace {

using nlohmann::json;

// The limits under which the file was written.
constexpr int64_t kClipTokens = 77;
constexpr int64_t kSentencePieceTokens = 64;
constexpr int64_t kWordPieceTokens = 128;
// How many texts there must be: a file cut short must not pass.
constexpr int kMinTexts = 2000;

std::string Contents(const std::string& path) {
  absl::StatusOr<std::string> contents = ReadFile(path);
  EXPECT_TRUE(contents.ok()) << contents.status();
  return contents.ok() ? *std::move(contents) : "";
}

std::string GoldenFile(absl::string_view name) {
  const char* folder = std::getenv("QUERN_TOKENIZER_GOLDEN");
  return Contents(absl::StrCat(
      folder == nullptr ? "tests/data/tokenizers" : folder, "/", name));
}

template <typename T>
std::unique_ptr<Tokenizer> Checked(
    absl::StatusOr<std::unique_ptr<T>> tokenizer) {
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::unique_ptr<Tokenizer> MakeClip() {
  const std::string vocabulary = GoldenFile("clip_vocab.json");
  const std::string merges = GoldenFile("clip_merges.txt");
  return Checked(ClipBpeTokenizer::Create(
      {.vocabulary = vocabulary, .merges = merges, .max_tokens = kClipTokens}));
}

std::unique_ptr<Tokenizer> MakeWordPiece() {
  const char* cache = std::getenv("QUERN_CACHE");
  return Checked(WordPieceTokenizer::Create(
      {.vocabulary = Contents(absl::StrCat(cache == nullptr ? "" : cache,
                                           "/models/quern-lite/vocab.txt")),
       .max_tokens = kWordPieceTokens}));
}

std::unique_ptr<Tokenizer> MakeSiglip() {
  const std::string model = GoldenFile("unigram.model");
  return Checked(
      SentencePieceTokenizer::Create({.model = model,
                                      .lowercase = true,
                                      .remove_punctuation = true,
                                      .max_tokens = kSentencePieceTokens}));
}

std::unique_ptr<Tokenizer> MakeT5() {
  const std::string model = GoldenFile("unigram.model");
  return Checked(SentencePieceTokenizer::Create(
      {.model = model, .max_tokens = kSentencePieceTokens}));
}

std::unique_ptr<Tokenizer> MakeSiglip2() {
  const std::string model = GoldenFile("bpe.model");
  return Checked(SentencePieceTokenizer::Create(
      {.model = model, .lowercase = true, .max_tokens = kSentencePieceTokens}));
}

struct Reference {
  const char* name;  // In the file.
  std::unique_ptr<Tokenizer> (*make)();
};

void PrintTo(const Reference& reference, std::ostream* out) {
  *out << reference.name;
}

class TokenizerGoldenTest : public testing::TestWithParam<Reference> {};

TEST_P(TokenizerGoldenTest, AgreesWithTheReference) {
  const std::string name = GetParam().name;
  const std::unique_ptr<Tokenizer> tokenizer = GetParam().make();
  ASSERT_NE(tokenizer, nullptr);
  const std::string file = GoldenFile("golden.jsonl");
  int texts = 0;
  int different = 0;
  for (absl::string_view line : absl::StrSplit(file, '\n', absl::SkipEmpty())) {
    const json expected = json::parse(line.begin(), line.end());
    const json& cut = expected["truncated"];
    const bool truncated = std::find(cut.begin(), cut.end(), name) != cut.end();
    const Tokens tokens =
        tokenizer->Tokenize(expected["text"].get<std::string>());
    ++texts;
    if (tokens.ids == expected[name].get<std::vector<int32_t>>() &&
        tokens.truncated == truncated) {
      continue;
    }
    // The first one tells enough; the rest is counted.
    if (++different > 1) continue;
    ADD_FAILURE() << "line " << texts << ", text " << expected["text"]
                  << "\n  expected " << expected[name] << ", truncated "
                  << truncated << "\n  actual   " << json(tokens.ids)
                  << ", truncated " << tokens.truncated;
  }
  EXPECT_EQ(different, 0) << "of " << texts;
  EXPECT_GE(texts, kMinTexts);
}

INSTANTIATE_TEST_SUITE_P(References, TokenizerGoldenTest,
                         testing::Values(Reference{"clip", MakeClip},
                                         Reference{"wordpiece", MakeWordPiece},
                                         Reference{"siglip", MakeSiglip},
                                         Reference{"t5", MakeT5},
                                         Reference{"siglip2", MakeSiglip2}),
                         [](const testing::TestParamInfo<Reference>& info) {
                           return std::string(info.param.name);
                         });

}  // namespace
}  // namespace quern
