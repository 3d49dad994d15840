#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

#include "engine/media/vips_image_decoder.h"

// Files under tests/data and comparisons of pictures.

namespace quern {

inline std::string ReadTestData(absl::string_view name) {
  const std::string path = absl::StrCat("tests/data/", name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  std::stringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

inline std::unique_ptr<VipsImageDecoder> MakeDecoder(ImageLimits limits = {}) {
  auto decoder = VipsImageDecoder::Create({.limits = limits});
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  return std::move(decoder).value();
}

// A picture of tests/data; empty, with a failure recorded, if it does not
// decode.
inline Image LoadTestImage(absl::string_view name) {
  auto image = MakeDecoder()->Decode(ReadTestData(name));
  EXPECT_TRUE(image.ok()) << name << ": " << image.status();
  return image.ok() ? *std::move(image) : Image();
}

struct Difference {
  int max = 255;  // As for pictures of different sizes.
  double mean = 255;
};

inline Difference Compare(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height || a.rgb.empty() ||
      a.rgb.size() != b.rgb.size()) {
    return {};
  }
  Difference difference = {.max = 0, .mean = 0};
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    const int delta = std::abs(a.rgb[i] - b.rgb[i]);
    difference.max = std::max(difference.max, delta);
    difference.mean += delta;
  }
  difference.mean /= static_cast<double>(a.rgb.size());
  return difference;
}

}  // namespace quern
