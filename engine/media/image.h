#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quern {

// A decoded picture: upright, sRGB, alpha composited on white.
struct Image {
  int64_t width = 0;   // Pixels.
  int64_t height = 0;  // Pixels.
  // height x width x 3, 8 bits a channel, row-major, no padding.
  std::vector<uint8_t> rgb;
  // Before it was reduced while decoding, upright; 0: it was not.
  int64_t original_width = 0;
  int64_t original_height = 0;
};

// Applied to the header, before any pixel is allocated.
struct ImageLimits {
  int64_t max_bytes = 32 << 20;      // Encoded size; >= 1.
  int64_t max_pixels = 100'000'000;  // Width x height; >= 1.
  int64_t max_side = 32'768;         // Pixels along either side; >= 1.
};

// Decodes still pictures. Thread-safe.
class ImageDecoder {
 public:
  virtual ~ImageDecoder() = default;

  // `hint_width` and `hint_height` are the size that the picture will be
  // reduced to: a decoder may return a picture reduced by an integer factor as
  // long as both of its sides stay at least twice as long as asked
  // (shrink-on-load). Zero asks for the full size. `encoded` is not kept.
  // Errors:
  //   kInvalidArgument  not a picture, truncated or damaged (with the decoder's
  //                     reason), or beyond a limit (with value and limit)
  absl::StatusOr<Image> Decode(absl::string_view encoded,
                               int64_t hint_width = 0,
                               int64_t hint_height = 0) const {
    return DoDecode(encoded, hint_width, hint_height);
  }

 private:
  virtual absl::StatusOr<Image> DoDecode(absl::string_view encoded,
                                         int64_t hint_width,
                                         int64_t hint_height) const = 0;
};

}  // namespace quern
