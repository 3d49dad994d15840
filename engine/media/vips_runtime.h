#pragma once

#include <string>

#include "absl/status/status.h"

// libvips as this process uses it. For the adapters in this folder only.

namespace quern {

// Starts libvips on the first call: one thread per operation, no operation
// cache, and no loader but those for JPEG, PNG, WebP, GIF, TIFF and HEIF/AVIF.
// Thread-safe. Errors: kInternal when libvips cannot start.
absl::Status StartVips();

// The first line of what libvips last complained about, without its prefix; the
// complaint is forgotten. libvips has one such buffer for the process, so when
// two threads fail at once one may read the other's reason, or a generic one.
std::string TakeVipsError();

}  // namespace quern
