#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "engine/media/image.h"

// Encodes pictures. Thread-safe. Errors: kInvalidArgument for a picture without
// pixels, whose sides do not match its values, or a quality out of range;
// kInternal with the encoder's reason.

namespace quern {

// `quality` is JPEG's, 1..100. Chroma is subsampled below 90.
absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality);

absl::StatusOr<std::string> EncodePng(const Image& image);

}  // namespace quern
