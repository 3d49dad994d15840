#pragma once

#include <string>

#include "absl/strings/escaping.h"

namespace quern {

// A picture of one pixel.
inline std::string TinyGif() {
  std::string bytes;
  absl::Base64Unescape(
      "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", &bytes);
  return bytes;
}

}  // namespace quern
