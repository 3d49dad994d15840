#include "engine/base/utf8.h"

#include <cstring>

#include <utf8proc.h>

namespace quern {
namespace {

bool StartsWithEightAscii(absl::string_view text) {
  if (text.size() < 8) return false;
  uint64_t bytes = 0;
  std::memcpy(&bytes, text.data(), 8);
  return (bytes & 0x8080808080808080) == 0;
}

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    if (StartsWithEightAscii(text)) {
      text.remove_prefix(8);
      continue;
    }
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
        static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    if (length <= 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace quern
