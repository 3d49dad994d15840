#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quern::cli {

// A small JPEG.
struct Thumbnail {
  std::string jpeg;
  int width = 0;   // Pixels.
  int height = 0;  // Pixels.
};

// A picture's bytes, upright, in sRGB on white, at most 320 pixels on a side.
// INVALID_ARGUMENT with the decoder's reason when they are no picture.
// Thread-safe.
absl::StatusOr<Thumbnail> MakeThumbnail(absl::string_view picture);

// Likewise, of the first frame of a video.
absl::StatusOr<Thumbnail> VideoThumbnail(const std::filesystem::path& file);

}  // namespace quern::cli
