#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}  // namespace sentencepiece

namespace quern {

// The sentencepiece library behind a header without Abseil, which its own
// header redefines a part of. The library may throw: callers use Guard().
// Immutable; thread-safe.
class SentencePieceLibrary {
 public:
  // Checks `model` for what the library takes on trust, then loads it. Null
  // with the reason in `error` if it is no good.
  static std::unique_ptr<SentencePieceLibrary> Load(std::string_view model,
                                                    std::string& error);
  ~SentencePieceLibrary();

  std::vector<int32_t> Encode(std::string_view text) const;

  int32_t bos_id() const;  // -1 if there is none.
  int32_t eos_id() const;  // -1 if there is none.
  const std::string& unknown_piece() const;

 private:
  SentencePieceLibrary();

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

// Whether the library's search through `charsmap` (a trie and the strings it
// leads to, NormalizerSpec.precompiled_charsmap) stays within its bytes for any
// text. The library checks sizes only.
bool IsSoundCharsMap(std::string_view charsmap);

}  // namespace quern
