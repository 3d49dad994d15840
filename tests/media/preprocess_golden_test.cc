#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

#include "engine/media/preprocess.h"
#include "tests/media/pictures.h"

// From a JPEG's bytes to a model's input, against the models' own Python code:
// tests/data/make_preprocess_golden.py.

namespace quern {
namespace {

// The expected pictures keep every so manyth pixel of every so manyth row.
constexpr int64_t kStep = 4;

struct GoldenCase {
  std::string photograph;
  ImagePreprocessing preprocessing;
  std::string expected;
};

std::array<float, 3> ParseChannels(absl::string_view text) {
  std::array<float, 3> channels = {};
  const std::vector<std::string> fields = absl::StrSplit(text, ',');
  EXPECT_EQ(fields.size(), 3) << text;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(absl::SimpleAtof(fields.at(i), &channels[i])) << text;
    channels[i] *= 255;
  }
  return channels;
}

ResizeMode ParseMode(absl::string_view mode) {
  if (mode == "center_crop") return ResizeMode::kCenterCrop;
  if (mode == "center_crop_floor") return ResizeMode::kCenterCropFloor;
  if (mode == "letterbox") return ResizeMode::kLetterbox;
  EXPECT_EQ(mode, "squash");
  return ResizeMode::kSquash;
}

std::vector<GoldenCase> ReadGoldenCases() {
  std::vector<GoldenCase> cases;
  const std::string lines = ReadTestData("preprocess/cases.tsv");
  for (absl::string_view line :
       absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    EXPECT_EQ(fields.size(), 7) << line;
    int64_t side = 0;
    EXPECT_TRUE(absl::SimpleAtoi(fields.at(3), &side)) << line;
    cases.push_back({.photograph = fields[0],
                     .preprocessing = {.width = side,
                                       .height = side,
                                       .mode = ParseMode(fields[1]),
                                       .filter = fields[2] == "bilinear"
                                                     ? ResizeFilter::kBilinear
                                                     : ResizeFilter::kBicubic,
                                       .mean = ParseChannels(fields[4]),
                                       .std = ParseChannels(fields[5])},
                     .expected = fields[6]});
  }
  return cases;
}

// The kept pixels of what the model would be given, the normalisation undone.
Image KeptPixels(const std::vector<float>& pixels,
                 const ImagePreprocessing& preprocessing) {
  const int64_t side = preprocessing.width;
  Image kept = {.width = side / kStep, .height = side / kStep, .rgb = {}};
  for (int64_t y = 0; y < side; y += kStep) {
    for (int64_t x = 0; x < side; x += kStep) {
      for (int64_t channel = 0; channel < 3; ++channel) {
        const float value = pixels[(y * side + x) * 3 + channel];
        kept.rgb.push_back(static_cast<uint8_t>(std::lround(
            value * preprocessing.std[channel] + preprocessing.mean[channel])));
      }
    }
  }
  return kept;
}

// What becomes of a golden case's photograph, decoded for `hint_side`.
Difference CompareWithGolden(const GoldenCase& golden, int64_t hint_side) {
  const ImagePreprocessing& target = golden.preprocessing;
  const auto photograph = MakeDecoder()->Decode(
      ReadTestData(absl::StrCat("preprocess/", golden.photograph)), hint_side,
      hint_side);
  EXPECT_TRUE(photograph.ok()) << photograph.status();
  if (!photograph.ok()) return {};
  std::vector<float> pixels(3 * target.width * target.height);
  Normalise(Fit(*photograph, target).rgb, target, absl::MakeSpan(pixels));
  return Compare(KeptPixels(pixels, target),
                 LoadTestImage(absl::StrCat("preprocess/", golden.expected)));
}

TEST(PreprocessGoldenTest, EqualsTheModelsOwnPreprocessing) {
  const std::vector<GoldenCase> cases = ReadGoldenCases();
  EXPECT_GE(cases.size(), 40);
  for (const GoldenCase& golden : cases) {
    const Difference difference = CompareWithGolden(golden, 0);
    EXPECT_LE(difference.mean, 0.05) << golden.expected;
    EXPECT_LE(difference.max, 2) << golden.expected;
  }
}

// Shrinking while decoding, which only large JPEGs see, costs a little.
TEST(PreprocessGoldenTest, IsNearTheModelsOwnWhenJpegIsShrunk) {
  for (const GoldenCase& golden : ReadGoldenCases()) {
    const Difference difference =
        CompareWithGolden(golden, golden.preprocessing.width);
    EXPECT_LE(difference.mean, 1) << golden.expected;
    EXPECT_LE(difference.max, golden.photograph == "large.jpg" ? 8 : 2)
        << golden.expected;
  }
}

}  // namespace
}  // namespace quern
