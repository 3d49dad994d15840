#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/text/bpe_merges.h"
#include "engine/text/tokenizer.h"

namespace quern {

// CLIP's tokeniser: words (see clip_words.h) as UTF-8 bytes, the last one of a
// word marked, merged pair by pair. Ids equal those of Hugging Face's
// CLIPTokenizer, except that <|startoftext|> and <|endoftext|> in the text are
// plain text. The result is <|startoftext|> ... <|endoftext|>. Immutable after
// Create(); thread-safe.
class ClipBpeTokenizer final : public Tokenizer {
 public:
  struct Options {
    // The contents of a vocab.json: an object of tokens with their ids. Must
    // have <|startoftext|>, <|endoftext|>, and the tokens of every byte with
    // and without "</w>" behind it.
    absl::string_view vocabulary;
    // The contents of a merges.txt: "left right" a line, the most frequent
    // first; a line that starts with "#version" is skipped.
    absl::string_view merges;
    int64_t max_tokens = 77;  // With the first and the last; >= 3.
  };

  // Reads the options' texts, keeps none of them.
  // Errors: kInvalidArgument for a bad vocabulary, line of the merges or
  // option.
  static absl::StatusOr<std::unique_ptr<ClipBpeTokenizer>> Create(
      const Options& options);

  Tokens Tokenize(absl::string_view text) const override;
  int64_t max_tokens() const override { return max_tokens_; }

 private:
  static constexpr int kBytes = 256;

  explicit ClipBpeTokenizer(int64_t max_tokens) : max_tokens_(max_tokens) {}

  const int64_t max_tokens_;
  // The members below are const after Create().
  BpeMerges merges_;
  std::array<int32_t, kBytes> byte_ids_;
  std::array<int32_t, kBytes> last_byte_ids_;  // Of a word's last byte.
  int32_t start_id_ = 0;
  int32_t end_id_ = 0;
};

}  // namespace quern
