#include "engine/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/text/sentencepiece_library.h"
#include "engine/text/unicode.h"

namespace quern {
namespace {

using Library = std::unique_ptr<const SentencePieceLibrary>;

constexpr size_t kMaxShownError = 400;

constexpr absl::string_view kSpaceSymbol = "\u2581";

absl::StatusOr<Library> LoadLibrary(absl::string_view model) {
  std::string error;
  absl::StatusOr<Library> library = Guard("sentencepiece", [&] {
    return Library(
        SentencePieceLibrary::Load({model.data(), model.size()}, error));
  });
  if (absl::IsResourceExhausted(library.status())) return library;
  if (!library.ok()) error = std::string(library.status().message());
  if (!library.ok() || *library == nullptr) {
    return InvalidField(
        "model", absl::StrCat("is no SentencePiece model that can be used: ",
                              Quoted(error, kMaxShownError)));
  }
  return library;
}

// Python's str.isspace(): Unicode's, and four separators of ASCII.
bool IsPythonSpace(int32_t code_point) {
  return IsUnicodeSpace(code_point) ||
         (code_point >= 0x1C && code_point <= 0x1F);
}

bool IsAsciiPunctuation(int32_t code_point) {
  return code_point < 0x80 &&
         absl::ascii_ispunct(static_cast<unsigned char>(code_point));
}

std::string Lowercased(absl::string_view text) {
  std::vector<int32_t> code_points;
  DecodeUtf8(text, code_points);
  std::vector<int32_t> lower;
  for (int32_t c : code_points) AppendLowercase(c, lower);
  std::string out;
  for (int32_t c : lower) AppendUtf8(c, out);
  return out;
}

// SiglipTokenizer.canonicalize_text().
std::string Canonical(absl::string_view text, bool lowercase) {
  std::vector<int32_t> code_points;
  DecodeUtf8(text, code_points);
  if (lowercase) LowercaseWithContext(code_points);
  std::string out;
  bool after_space = false;
  for (int32_t c : code_points) {
    if (IsAsciiPunctuation(c)) continue;
    if (IsPythonSpace(c)) {
      after_space = true;
      continue;
    }
    if (after_space && !out.empty()) out.push_back(' ');
    after_space = false;
    AppendUtf8(c, out);
  }
  return out;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(const Options& options,
                                               Library library)
    : lowercase_(options.lowercase),
      remove_punctuation_(options.remove_punctuation),
      add_bos_(options.add_bos),
      add_eos_(options.add_eos),
      max_tokens_(options.max_tokens),
      library_(std::move(library)),
      guard_(library_->unknown_piece()),
      guard_pieces_(library_->Encode(guard_).size()) {}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>>
SentencePieceTokenizer::Create(const Options& options) {
  QUERN_ASSIGN_OR_RETURN(Library library, LoadLibrary(options.model));
  std::unique_ptr<SentencePieceTokenizer> tokenizer(
      new SentencePieceTokenizer(options, std::move(library)));
  QUERN_ASSIGN_OR_RETURN(const int64_t added, tokenizer->CountAdded());
  if (options.max_tokens <= added) {
    return InvalidField(
        "max_tokens",
        absl::StrCat("is ", options.max_tokens, "; it must be more than the ",
                     added, " that are added to every text"));
  }
  return tokenizer;
}

absl::StatusOr<int64_t> SentencePieceTokenizer::CountAdded() const {
  if (add_bos_ && library_->bos_id() < 0) {
    return InvalidField("add_bos", "is true, but the model has no such piece");
  }
  if (add_eos_ && library_->eos_id() < 0) {
    return InvalidField("add_eos", "is true, but the model has no such piece");
  }
  return int64_t{add_bos_} + int64_t{add_eos_};
}

Tokens SentencePieceTokenizer::Tokenize(absl::string_view text) const {
  const std::vector<int32_t> ids = Encode(text);
  const size_t room = max_tokens_ - int64_t{add_bos_} - int64_t{add_eos_};
  Tokens tokens;
  if (add_bos_) tokens.ids.push_back(library_->bos_id());
  tokens.truncated = ids.size() > room;
  tokens.ids.insert(tokens.ids.end(), ids.begin(),
                    ids.begin() + std::min(ids.size(), room));
  if (add_eos_) tokens.ids.push_back(library_->eos_id());
  return tokens;
}

std::vector<int32_t> SentencePieceTokenizer::Encode(
    absl::string_view text) const {
  if (remove_punctuation_) return EncodeForSiglip(text);
  const std::string lower = lowercase_ ? Lowercased(text) : "";
  if (lowercase_) text = lower;
  return library_->Encode({text.data(), text.size()});
}

// SiglipTokenizer puts a space symbol before the text, and the unknown piece's
// name before that, whose pieces it drops again: what the library does at the
// start of a text then cannot touch it.
std::vector<int32_t> SentencePieceTokenizer::EncodeForSiglip(
    absl::string_view text) const {
  const std::string prefixed = absl::StrCat(
      kSpaceSymbol, absl::StrReplaceAll(text, {{kSpaceSymbol, " "}}));
  std::vector<int32_t> ids =
      library_->Encode(absl::StrCat(guard_, Canonical(prefixed, lowercase_)));
  if (ids.size() >= guard_pieces_) {
    ids.erase(ids.begin(), ids.begin() + guard_pieces_);
  }
  return ids;
}

}  // namespace quern
