#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

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

// Likewise, of the frame that a video shows at `time` from its start, or of its
// first one where that is not to be had.
absl::StatusOr<Thumbnail> VideoThumbnail(const std::filesystem::path& file,
                                         absl::Duration time = {});

}  // namespace quern::cli
