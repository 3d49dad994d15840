#include "engine/media/preprocess.h"

#include <algorithm>
#include <cmath>

#include "engine/media/resample.h"

namespace quern {
namespace {

constexpr int64_t kChannels = 3;

// A picture's size after resizing, and which part of it is used.
struct Placement {
  int64_t width = 0;
  int64_t height = 0;
  Window window;  // In the resized picture.
  // Where the window's corner goes in the target.
  int64_t left = 0;
  int64_t top = 0;
};

Placement Squash(const ImagePreprocessing& target) {
  return {.width = target.width,
          .height = target.height,
          .window = {.width = target.width, .height = target.height}};
}

double Ratio(int64_t a, int64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}

// A side after scaling, to the nearest pixel; halves go up.
int64_t ScaledSide(int64_t side, double scale, int64_t limit) {
  const double scaled = std::floor(static_cast<double>(side) * scale + 0.5);
  return std::clamp<int64_t>(static_cast<int64_t>(scaled), 1, limit);
}

Placement Letterbox(const Image& image, const ImagePreprocessing& target) {
  const double scale = std::min(Ratio(target.width, image.width),
                                Ratio(target.height, image.height));
  const int64_t width = ScaledSide(image.width, scale, target.width);
  const int64_t height = ScaledSide(image.height, scale, target.height);
  return {.width = width,
          .height = height,
          .window = {.width = width, .height = height},
          .left = (target.width - width) / 2,
          .top = (target.height - height) / 2};
}

// Where a window of `window` starts in the middle of `side`.
int64_t MiddleOffset(int64_t side, int64_t window, ResizeMode mode) {
  if (mode == ResizeMode::kCenterCropFloor) return (side - window) / 2;
  // As Python's round() does it: half to even.
  return static_cast<int64_t>(
      std::nearbyint(static_cast<double>(side - window) / 2));
}

// The sizes are those of torchvision's Resize, and of Hugging Face's.
Placement CenterCrop(const Image& image, const ImagePreprocessing& target) {
  Placement placed = Squash(target);
  if (target.width * image.height >= target.height * image.width) {
    placed.height = target.width * image.height / image.width;
  } else {
    placed.width = target.height * image.width / image.height;
  }
  placed.window.left = MiddleOffset(placed.width, target.width, target.mode);
  placed.window.top = MiddleOffset(placed.height, target.height, target.mode);
  return placed;
}

Placement Place(const Image& image, const ImagePreprocessing& target) {
  switch (target.mode) {
    case ResizeMode::kSquash:
      return Squash(target);
    case ResizeMode::kLetterbox:
      return Letterbox(image, target);
    case ResizeMode::kCenterCrop:
    case ResizeMode::kCenterCropFloor:
      break;
  }
  return CenterCrop(image, target);
}

Image Padded(const Image& picture, const ImagePreprocessing& target,
             int64_t left, int64_t top) {
  Image padded = {.width = target.width, .height = target.height, .rgb = {}};
  padded.rgb.reserve(target.width * target.height * kChannels);
  for (int64_t pixel = 0; pixel < target.width * target.height; ++pixel) {
    padded.rgb.insert(padded.rgb.end(), target.pad_rgb.begin(),
                      target.pad_rgb.end());
  }
  const int64_t row_bytes = picture.width * kChannels;
  for (int64_t y = 0; y < picture.height; ++y) {
    std::copy_n(
        picture.rgb.begin() + y * row_bytes, row_bytes,
        padded.rgb.begin() + ((top + y) * target.width + left) * kChannels);
  }
  return padded;
}

}  // namespace

Image Resize(const Image& image, int64_t width, int64_t height,
             ResizeFilter filter) {
  return ResizeWindow(image, width, height, {.width = width, .height = height},
                      filter);
}

Image Fit(Image image, const ImagePreprocessing& preprocessing) {
  const auto fits = [&preprocessing](const Image& picture) {
    return picture.width == preprocessing.width &&
           picture.height == preprocessing.height;
  };
  if (fits(image)) return image;
  const Placement placed = Place(image, preprocessing);
  Image resized = ResizeWindow(image, placed.width, placed.height,
                               placed.window, preprocessing.filter);
  if (fits(resized)) return resized;
  return Padded(resized, preprocessing, placed.left, placed.top);
}

void Normalise(absl::Span<const uint8_t> rgb,
               const ImagePreprocessing& preprocessing,
               absl::Span<float> pixels) {
  std::array<std::array<float, 256>, kChannels> values;
  for (int64_t channel = 0; channel < kChannels; ++channel) {
    for (int value = 0; value < 256; ++value) {
      values[channel][value] =
          (static_cast<float>(value) - preprocessing.mean[channel]) /
          preprocessing.std[channel];
    }
  }
  for (size_t i = 0; i + kChannels <= rgb.size(); i += kChannels) {
    for (int64_t channel = 0; channel < kChannels; ++channel) {
      pixels[i + channel] = values[channel][rgb[i + channel]];
    }
  }
}

}  // namespace quern
