#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/text/tokenizer.h"

namespace quern {

class SentencePieceLibrary;

// A SentencePiece model (unigram or BPE, with or without byte fallback): the
// tokenisers of T5, Gemma, SigLIP and SigLIP 2. Ids equal those of the
// sentencepiece library, and with the options as below those of Hugging Face's
// SiglipTokenizer and Siglip2Tokenizer, except that a special token's name in
// the text ("</s>") is plain text. Immutable after Create(); thread-safe.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  struct Options {
    // The contents of a spiece.model.
    absl::string_view model;
    // Before anything else; character by character, as Siglip2Tokenizer.
    bool lowercase = false;
    // SigLIP's canonical form: ASCII punctuation dropped, white space
    // collapsed; lower case then minds the final sigma, as Python does.
    bool remove_punctuation = false;
    bool add_bos = false;  // The model must have one.
    bool add_eos = true;   // The model must have one.
    // With <s> and </s>; at least one more than those added.
    int64_t max_tokens = 64;
  };

  // Errors: kInvalidArgument for a model that the library would not survive,
  // or for an option that does not fit it.
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> Create(
      const Options& options);

  ~SentencePieceTokenizer() override;

  Tokens Tokenize(absl::string_view text) const override;
  int64_t max_tokens() const override { return max_tokens_; }

 private:
  SentencePieceTokenizer(const Options& options,
                         std::unique_ptr<const SentencePieceLibrary> library);

  absl::StatusOr<int64_t> CountAdded() const;
  std::vector<int32_t> Encode(absl::string_view text) const;
  std::vector<int32_t> EncodeForSiglip(absl::string_view text) const;

  const bool lowercase_;
  const bool remove_punctuation_;
  const bool add_bos_;
  const bool add_eos_;
  const int64_t max_tokens_;
  const std::unique_ptr<const SentencePieceLibrary> library_;
  // See EncodeForSiglip().
  const std::string guard_;
  const size_t guard_pieces_;
};

}  // namespace quern
