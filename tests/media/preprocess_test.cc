#include "engine/media/preprocess.h"

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

#include "tests/media/pictures.h"

namespace quern {
namespace {

// One line of tests/data/resize/cases.tsv, which make_resize_golden.py wrote.
struct GoldenCase {
  std::string input;
  ImagePreprocessing preprocessing;
  std::string expected;
};

ResizeMode ParseMode(absl::string_view mode) {
  if (mode == "letterbox") return ResizeMode::kLetterbox;
  if (mode == "center_crop") return ResizeMode::kCenterCrop;
  EXPECT_EQ(mode, "squash");
  return ResizeMode::kSquash;
}

std::vector<GoldenCase> ReadGoldenCases() {
  std::vector<GoldenCase> cases;
  const std::string lines = ReadTestData("resize/cases.tsv");
  for (absl::string_view line :
       absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    EXPECT_EQ(fields.size(), 6) << line;
    GoldenCase golden = {.input = fields[0],
                         .preprocessing = {.mode = ParseMode(fields[1])},
                         .expected = fields[5]};
    golden.preprocessing.filter = fields[2] == "bilinear"
                                      ? ResizeFilter::kBilinear
                                      : ResizeFilter::kBicubic;
    EXPECT_TRUE(absl::SimpleAtoi(fields[3], &golden.preprocessing.width));
    EXPECT_TRUE(absl::SimpleAtoi(fields[4], &golden.preprocessing.height));
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::vector<float> PreprocessToVector(const Image& image,
                                      const ImagePreprocessing& preprocessing) {
  std::vector<float> pixels(3 * preprocessing.height * preprocessing.width);
  Normalise(Fit(image, preprocessing).rgb, preprocessing,
            absl::MakeSpan(pixels));
  return pixels;
}

Image Solid(int64_t width, int64_t height, std::array<uint8_t, 3> colour) {
  Image image = {.width = width, .height = height, .rgb = {}};
  for (int64_t pixel = 0; pixel < width * height; ++pixel) {
    image.rgb.insert(image.rgb.end(), colour.begin(), colour.end());
  }
  return image;
}

TEST(ResizeTest, EqualsPillow) {
  int squashed = 0;
  for (const GoldenCase& golden : ReadGoldenCases()) {
    const ImagePreprocessing& target = golden.preprocessing;
    if (target.mode != ResizeMode::kSquash) continue;
    const Image resized = Resize(LoadTestImage("resize/" + golden.input),
                                 target.width, target.height, target.filter);
    const Image expected = LoadTestImage("resize/" + golden.expected);
    EXPECT_EQ(Compare(resized, expected).max, 0) << golden.expected;
    ++squashed;
  }
  EXPECT_GT(squashed, 0);
}

TEST(PreprocessTest, EqualsPillow) {
  const std::vector<GoldenCase> cases = ReadGoldenCases();
  EXPECT_FALSE(cases.empty());
  for (const GoldenCase& golden : cases) {
    const Image input = LoadTestImage("resize/" + golden.input);
    const Image expected = LoadTestImage("resize/" + golden.expected);
    const ImagePreprocessing& target = golden.preprocessing;
    EXPECT_EQ(Compare(Fit(input, target), expected).max, 0) << golden.expected;
  }
}

TEST(ResizeTest, KeepsAPictureOfTheSameSize) {
  const Image photo = LoadTestImage("pictures/photo.png");
  const Image same =
      Resize(photo, photo.width, photo.height, ResizeFilter::kBicubic);
  EXPECT_EQ(Compare(photo, same).max, 0);
}

TEST(ResizeTest, KeepsASolidColourExactly) {
  const Image solid = Solid(37, 91, {7, 128, 255});
  for (ResizeFilter filter :
       {ResizeFilter::kBilinear, ResizeFilter::kBicubic}) {
    const Image resized = Resize(solid, 64, 10, filter);
    EXPECT_EQ(Compare(resized, Solid(64, 10, {7, 128, 255})).max, 0);
  }
}

TEST(PreprocessTest, NormalisesEachChannel) {
  const ImagePreprocessing preprocessing = {
      .width = 2, .height = 1, .mean = {10, 20, 30}, .std = {2, 4, 8}};
  const Image pair = {.width = 2, .height = 1, .rgb = {10, 20, 30, 20, 40, 60}};
  EXPECT_EQ(PreprocessToVector(pair, preprocessing),
            (std::vector<float>{0, 0, 0, 5, 5, 3.75}));
}

TEST(PreprocessTest, PadsWithTheNormalisedColour) {
  const ImagePreprocessing preprocessing = {.width = 4,
                                            .height = 3,
                                            .mode = ResizeMode::kLetterbox,
                                            .pad_rgb = {100, 50, 0},
                                            .mean = {100, 0, 10},
                                            .std = {1, 2, 5}};
  // 2 x 3 in the middle, and an odd rest: the extra column is on the right.
  const std::vector<float> pixels =
      PreprocessToVector(Solid(2, 3, {110, 20, 60}), preprocessing);
  const std::vector<float> row = {0,  25, -2, 10, 10, 10,  //
                                  10, 10, 10, 0,  25, -2};
  std::vector<float> expected;
  for (int y = 0; y < 3; ++y) {
    expected.insert(expected.end(), row.begin(), row.end());
  }
  EXPECT_EQ(pixels, expected);
}

// The whole resized picture would have 7 million x 224 pixels.
TEST(PreprocessTest, CropsFromAnEnormousResizeWithoutMakingIt) {
  const ImagePreprocessing preprocessing = {.mode = ResizeMode::kCenterCrop};
  const std::vector<float> pixels =
      PreprocessToVector(Solid(32'768, 1, {1, 2, 3}), preprocessing);
  EXPECT_EQ(pixels.front(), 1);
  EXPECT_EQ(pixels.back(), 3);
}

}  // namespace
}  // namespace quern
