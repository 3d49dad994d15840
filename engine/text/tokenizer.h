#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quern {

struct Tokens {
  std::vector<int32_t> ids;  // With the special tokens; never empty.
  bool truncated = false;    // Something did not fit into max_tokens().
};

// Turns text into the token ids of a model's text tower. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `text` is UTF-8; the caller has checked it (see IsValidUtf8). The empty
  // text gives the special tokens alone.
  virtual Tokens Tokenize(absl::string_view text) const = 0;

  // Longest result, special tokens included.
  virtual int64_t max_tokens() const = 0;
};

}  // namespace quern
