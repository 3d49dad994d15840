#pragma once

#include "absl/strings/string_view.h"

namespace quern {

// Whether `text` is well-formed UTF-8 (no surrogates, no overlong forms).
bool IsValidUtf8(absl::string_view text);

}  // namespace quern
