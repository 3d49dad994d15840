#pragma once

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/media/image.h"

namespace quern {

enum class ResizeMode {
  kSquash,     // Both sides to the target; the aspect ratio changes.
  kLetterbox,  // The whole picture, centred, the rest in `pad_rgb`.
  // The shorter side to the target, the middle kept. Of an odd rest the greater
  // half lies before or behind as torchvision's CenterCrop rounds (half to
  // even): OpenCLIP's way.
  kCenterCrop,
  // The same, with the greater half always behind: the way of Hugging Face's
  // image processors.
  kCenterCropFloor,
};

enum class ResizeFilter { kBilinear, kBicubic };

// What a model's image tower expects. Part of the model package.
struct ImagePreprocessing {
  int64_t width = 224;   // Pixels.
  int64_t height = 224;  // Pixels.
  ResizeMode mode = ResizeMode::kSquash;
  ResizeFilter filter = ResizeFilter::kBicubic;
  std::array<uint8_t, 3> pad_rgb = {255, 255, 255};
  std::array<float, 3> mean = {0, 0, 0};  // In units of 0..255.
  std::array<float, 3> std = {1, 1, 1};   // In units of 0..255; > 0.
};

// Resizes with Pillow's antialiased convolution (support scaled by the
// reduction factor, 8-bit fixed-point coefficients, horizontal pass first), so
// that results agree with torchvision on PIL images. Sizes are at least 1.
Image Resize(const Image& image, int64_t width, int64_t height,
             ResizeFilter filter);

// `image` resized and placed as `preprocessing` says, in its width x height:
// the bytes that the model sees.
Image Fit(Image image, const ImagePreprocessing& preprocessing);

// Writes (value - mean) / std of each channel of `rgb`, pixels of three bytes,
// to `pixels`: as many values in the same order, channels last.
void Normalise(absl::Span<const uint8_t> rgb,
               const ImagePreprocessing& preprocessing,
               absl::Span<float> pixels);

}  // namespace quern
