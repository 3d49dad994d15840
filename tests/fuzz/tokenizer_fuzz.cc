// The first byte says what the rest is: '0' to '4' a text for one of the
// tokenisers, 'a' to 'e' one of the files that a model package is made of.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "engine/base/file.h"
#include "engine/base/utf8.h"
#include "engine/model/model_json.h"
#include "engine/text/clip_bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/unicode.h"
#include "engine/text/wordpiece_tokenizer.h"
#include "tests/fuzz/require.h"

namespace quern {
namespace {

std::string Contents(absl::string_view name) {
  absl::StatusOr<std::string> contents =
      ReadFile(absl::StrCat(QUERN_SOURCE_DIR, "/tests/data/tokenizers/", name));
  QUERN_FUZZ_REQUIRE(contents.ok());
  return *std::move(contents);
}

template <typename T>
std::unique_ptr<Tokenizer> Checked(
    absl::StatusOr<std::unique_ptr<T>> tokenizer) {
  QUERN_FUZZ_REQUIRE(tokenizer.ok());
  return *std::move(tokenizer);
}

std::unique_ptr<Tokenizer> MakeSentencePiece(
    absl::string_view file, SentencePieceTokenizer::Options options) {
  const std::string model = Contents(file);
  options.model = model;
  return Checked(SentencePieceTokenizer::Create(options));
}

std::vector<std::unique_ptr<Tokenizer>> MakeTokenizers() {
  const std::string vocabulary = Contents("clip_vocab.json");
  const std::string merges = Contents("clip_merges.txt");
  std::vector<std::unique_ptr<Tokenizer>> tokenizers;
  tokenizers.push_back(Checked(
      ClipBpeTokenizer::Create({.vocabulary = vocabulary, .merges = merges})));
  tokenizers.push_back(Checked(WordPieceTokenizer::Create(
      {.vocabulary = "[UNK]\n[CLS]\n[SEP]\na\n##a\n##b\nab\nß\n!\n犬\nabc\n##c",
       .max_tokens = 32})));
  tokenizers.push_back(MakeSentencePiece(
      "unigram.model", {.lowercase = true, .remove_punctuation = true}));
  tokenizers.push_back(MakeSentencePiece("unigram.model", {}));
  tokenizers.push_back(MakeSentencePiece(
      "bpe.model", {.lowercase = true, .add_bos = true, .max_tokens = 16}));
  return tokenizers;
}

// The bytes as UTF-8, or if they are none each as a character.
std::string AsText(absl::string_view bytes) {
  if (IsValidUtf8(bytes)) return std::string(bytes);
  std::string text;
  for (char c : bytes) AppendUtf8(static_cast<unsigned char>(c), text);
  return text;
}

void Tokenize(const Tokenizer& tokenizer, absl::string_view text) {
  const Tokens tokens = tokenizer.Tokenize(text);
  const Tokens empty = tokenizer.Tokenize("");
  const int64_t size = static_cast<int64_t>(tokens.ids.size());
  QUERN_FUZZ_REQUIRE(size <= tokenizer.max_tokens());
  QUERN_FUZZ_REQUIRE(size >= static_cast<int64_t>(empty.ids.size()));
  QUERN_FUZZ_REQUIRE(!tokens.truncated || size == tokenizer.max_tokens());
  if (!empty.ids.empty()) {
    // The special tokens stand around every text.
    QUERN_FUZZ_REQUIRE(tokens.ids.back() == empty.ids.back());
  }
  for (int32_t id : tokens.ids) QUERN_FUZZ_REQUIRE(id >= 0);
}

void CheckError(const absl::Status& status) {
  QUERN_FUZZ_REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  QUERN_FUZZ_REQUIRE(!status.message().empty());
  QUERN_FUZZ_REQUIRE(IsValidUtf8(status.message()));
}

template <typename T>
void TokenizeWith(const absl::StatusOr<std::unique_ptr<T>>& tokenizer) {
  if (!tokenizer.ok()) return CheckError(tokenizer.status());
  for (absl::string_view text :
       {"a dog's 1st ÉTÉ \u2581 犬😀 e\u0301", "\n\t aaaabbbb </s>", "ΑΣ"}) {
    Tokenize(**tokenizer, text);
  }
}

// A package is its operator's, but it may be damaged, and nobody's server may
// die of it.
void ReadPackageFile(char kind, absl::string_view bytes) {
  const std::pair<absl::string_view, absl::string_view> two =
      absl::StrSplit(bytes, absl::MaxSplits('\0', 1));
  switch (kind) {
    case 'a':
      return TokenizeWith(ClipBpeTokenizer::Create(
          {.vocabulary = two.first, .merges = two.second}));
    case 'b':
      return TokenizeWith(WordPieceTokenizer::Create(
          {.vocabulary = std::string(bytes), .max_tokens = 8}));
    case 'c':
      return TokenizeWith(
          SentencePieceTokenizer::Create({.model = bytes, .add_eos = false}));
    case 'd':
      if (const auto spec = ParseModelJson(bytes); !spec.ok()) {
        CheckError(spec.status());
      }
      return;
    default:
      constexpr int64_t kDimension = 2;
      if (const auto canary = ParseCanaryJson(bytes, kDimension);
          !canary.ok()) {
        CheckError(canary.status());
      }
  }
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const tokenizers =
      new std::vector<std::unique_ptr<quern::Tokenizer>>(
          quern::MakeTokenizers());
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  const char kind = static_cast<char>(data[0]);
  const size_t index = static_cast<size_t>(kind - '0');
  if (kind >= '0' && index < tokenizers->size()) {
    quern::Tokenize(*(*tokenizers)[index], quern::AsText(rest));
  } else if (kind >= 'a' && kind <= 'e') {
    quern::ReadPackageFile(kind, rest);
  }
  return 0;
}
