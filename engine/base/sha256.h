#pragma once

#include <string>

#include "absl/strings/string_view.h"

struct evp_md_ctx_st;

namespace quern {

// SHA-256 over pieces. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();

  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(absl::string_view bytes);

  // Lower-case hexadecimal (64 characters). Called once, last.
  std::string Hex();

 private:
  evp_md_ctx_st* const context_;
};

std::string Sha256Hex(absl::string_view bytes);

}  // namespace quern
