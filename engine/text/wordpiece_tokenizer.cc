#include "engine/text/wordpiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/text/bert_words.h"

namespace quern {
namespace {

constexpr absl::string_view kContinuation = "##";

// Longer words are [UNK], as in the reference.
constexpr int kMaxWordCharacters = 100;

constexpr int64_t kMinTokens = 3;

bool IsCharacterBoundary(absl::string_view text, size_t position) {
  return position == text.size() || (text[position] & 0xC0) != 0x80;
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(Options options)
    : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<WordPieceTokenizer>> WordPieceTokenizer::Create(
    Options options) {
  if (options.max_tokens < kMinTokens) {
    return InvalidField(
        "max_tokens",
        absl::StrCat(options.max_tokens, " is less than ", kMinTokens));
  }
  std::unique_ptr<WordPieceTokenizer> tokenizer(
      new WordPieceTokenizer(std::move(options)));
  QUERN_RETURN_IF_ERROR(tokenizer->ReadVocabulary());
  return tokenizer;
}

absl::Status WordPieceTokenizer::ReadVocabulary() {
  int32_t id = 0;
  for (absl::string_view line :
       absl::StrSplit(absl::StripSuffix(options_.vocabulary, "\n"), '\n')) {
    QUERN_RETURN_IF_ERROR(AddToken(absl::StripSuffix(line, "\r"), id));
    ++id;
  }
  QUERN_ASSIGN_OR_RETURN(unknown_id_, SpecialToken("[UNK]"));
  QUERN_ASSIGN_OR_RETURN(start_id_, SpecialToken("[CLS]"));
  QUERN_ASSIGN_OR_RETURN(end_id_, SpecialToken("[SEP]"));
  return absl::OkStatus();
}

absl::Status WordPieceTokenizer::AddToken(absl::string_view token, int32_t id) {
  if (token.empty()) {
    return InvalidField("vocabulary",
                        absl::StrCat("line ", id + 1, " is empty"));
  }
  const bool later = token.size() > kContinuation.size() &&
                     absl::StartsWith(token, kContinuation);
  const absl::string_view piece =
      later ? absl::StripPrefix(token, kContinuation) : token;
  PieceMap& pieces = later ? later_pieces_ : first_pieces_;
  if (!pieces.emplace(piece, id).second) {
    return InvalidField(
        "vocabulary",
        absl::StrCat("line ", id + 1, " repeats the token ", Quoted(token)));
  }
  longest_piece_bytes_ = std::max(longest_piece_bytes_, piece.size());
  return absl::OkStatus();
}

absl::StatusOr<int32_t> WordPieceTokenizer::SpecialToken(
    absl::string_view name) const {
  const auto token = first_pieces_.find(name);
  if (token == first_pieces_.end()) {
    return InvalidField("vocabulary", absl::StrCat("lacks the token ", name));
  }
  return token->second;
}

Tokens WordPieceTokenizer::Tokenize(absl::string_view text) const {
  const BertWordOptions word_options = {.lowercase = options_.lowercase,
                                        .strip_accents = options_.strip_accents,
                                        .max_characters = kMaxWordCharacters};
  const size_t room = options_.max_tokens - 1;  // [SEP] comes on top.
  Tokens tokens;
  tokens.ids.push_back(start_id_);
  ForEachBertWord(text, word_options,
                  [&](absl::string_view word, int characters) {
                    AppendPieces(word, characters, tokens.ids);
                    return tokens.ids.size() <= room;
                  });
  if (tokens.ids.size() > room) {
    tokens.truncated = true;
    tokens.ids.resize(room);
  }
  tokens.ids.push_back(end_id_);
  return tokens;
}

void WordPieceTokenizer::AppendPieces(absl::string_view word, int characters,
                                      std::vector<int32_t>& ids) const {
  const size_t size_before = ids.size();
  const PieceMap* pieces = &first_pieces_;
  bool known = characters <= kMaxWordCharacters;
  while (known && !word.empty()) {
    const auto [piece, id] = LongestPiece(*pieces, word);
    ids.push_back(id);
    known = !piece.empty();
    word.remove_prefix(piece.size());
    pieces = &later_pieces_;
  }
  if (known) return;
  ids.resize(size_before);
  ids.push_back(unknown_id_);
}

std::pair<absl::string_view, int32_t> WordPieceTokenizer::LongestPiece(
    const PieceMap& pieces, absl::string_view rest) const {
  for (size_t size = std::min(rest.size(), longest_piece_bytes_); size > 0;
       --size) {
    if (!IsCharacterBoundary(rest, size)) continue;
    const auto piece = pieces.find(rest.substr(0, size));
    if (piece != pieces.end()) return {rest.substr(0, size), piece->second};
  }
  return {absl::string_view(), unknown_id_};
}

}  // namespace quern
