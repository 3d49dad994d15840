#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "engine/media/image.h"

namespace quern {

// Decodes JPEG, PNG, WebP, GIF, TIFF, HEIF and AVIF with libvips. EXIF
// orientation is applied, an embedded ICC profile is converted to sRGB, alpha
// is composited on white, and of several frames or pages the first is taken.
// Decoding runs on the calling thread and keeps no state between calls.
// Thread-safe.
class VipsImageDecoder final : public ImageDecoder {
 public:
  struct Options {
    ImageLimits limits;
  };

  // Errors: kInvalidArgument for a limit below 1; kInternal when libvips does
  // not start.
  static absl::StatusOr<std::unique_ptr<VipsImageDecoder>> Create(
      Options options);

 private:
  explicit VipsImageDecoder(Options options) : options_(options) {}

  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t hint_width,
                                 int64_t hint_height) const override;

  const Options options_;
};

}  // namespace quern
