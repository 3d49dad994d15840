#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/text/tokenizer.h"

namespace quern {

// BERT's uncased (or cased) tokeniser: ids equal those of Hugging Face
// `tokenizers` with BertNormalizer, BertPreTokenizer and WordPiece, except that
// a special token's name in the text ("[MASK]") is plain text. The result is
// [CLS] ... [SEP]. Immutable after Create(); thread-safe.
class WordPieceTokenizer final : public Tokenizer {
 public:
  struct Options {
    // The contents of a vocab.txt: one token a line, the line number (from 0)
    // is its id. Must have [UNK], [CLS] and [SEP].
    std::string vocabulary;
    bool lowercase = true;
    // "é" becomes "e". Reference configurations that leave it open mean
    // `lowercase`.
    bool strip_accents = true;
    int64_t max_tokens = 256;  // With [CLS] and [SEP]; >= 3.
  };

  // Errors: kInvalidArgument for a bad vocabulary (with the line) or option.
  static absl::StatusOr<std::unique_ptr<WordPieceTokenizer>> Create(
      Options options);

  Tokens Tokenize(absl::string_view text) const override;
  int64_t max_tokens() const override { return options_.max_tokens; }

 private:
  using PieceMap = absl::flat_hash_map<absl::string_view, int32_t>;

  explicit WordPieceTokenizer(Options options);

  absl::Status ReadVocabulary();
  absl::Status AddToken(absl::string_view token, int32_t id);
  absl::StatusOr<int32_t> SpecialToken(absl::string_view name) const;

  // Appends the ids of one word.
  void AppendPieces(absl::string_view word, int characters,
                    std::vector<int32_t>& ids) const;
  // The longest token that `rest` starts with, at a character's boundary; the
  // view is empty if there is none.
  std::pair<absl::string_view, int32_t> LongestPiece(
      const PieceMap& pieces, absl::string_view rest) const;

  // The members below are const after Create(). Map keys point into
  // options_.vocabulary.
  Options options_;
  PieceMap first_pieces_;  // Tokens that start a word.
  PieceMap later_pieces_;  // Tokens that continue one, without their "##".
  size_t longest_piece_bytes_ = 0;
  int32_t unknown_id_ = 0;
  int32_t start_id_ = 0;
  int32_t end_id_ = 0;
};

}  // namespace quern
