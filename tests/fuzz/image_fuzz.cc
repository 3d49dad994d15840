#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/media/preprocess.h"
#include "engine/media/vips_image_decoder.h"

// Decodes the bytes as a picture within small limits and prepares it for a
// model. What must hold of any bytes: as many values as the size says, within
// the limits; or an error about the input.

namespace quern {
namespace {

constexpr ImageLimits kLimits = {
    .max_bytes = 1 << 20, .max_pixels = 1 << 20, .max_side = 4096};
constexpr int64_t kSide = 16;

void Require(bool condition) {
  if (!condition) std::abort();
}

const VipsImageDecoder& Decoder() {
  static const auto decoder = *VipsImageDecoder::Create({.limits = kLimits});
  return *decoder;
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using quern::kLimits;
  using quern::kSide;
  using quern::Require;
  const auto image = quern::Decoder().Decode(
      {reinterpret_cast<const char*>(data), size}, kSide, kSide);
  if (!image.ok()) {
    Require(absl::IsInvalidArgument(image.status()));
    return 0;
  }
  Require(image->width >= 1 && image->width <= kLimits.max_side);
  Require(image->height >= 1 && image->height <= kLimits.max_side);
  Require(image->rgb.size() ==
          static_cast<size_t>(image->width * image->height * 3));
  std::array<float, 3 * kSide * kSide> pixels;
  for (const auto mode :
       {quern::ResizeMode::kSquash, quern::ResizeMode::kLetterbox,
        quern::ResizeMode::kCenterCrop}) {
    const quern::ImagePreprocessing target = {
        .width = kSide, .height = kSide, .mode = mode};
    quern::Normalise(quern::Fit(*image, target).rgb, target,
                     absl::MakeSpan(pixels));
    for (float value : pixels) Require(value >= 0 && value <= 255);
  }
  return 0;
}
