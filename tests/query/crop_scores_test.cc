#include "engine/query/crop_scores.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

// Each pixel's red and green tell its column and row.
Image Numbered(int64_t width, int64_t height) {
  Image image{.width = width, .height = height};
  for (int64_t row = 0; row < height; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      image.rgb.insert(image.rgb.end(), {static_cast<uint8_t>(column),
                                         static_cast<uint8_t>(row), 0});
    }
  }
  return image;
}

TEST(CropTest, IsTheBoxAndATenthMoreOnEachSide) {
  const Image crop = Crop(Numbered(100, 50), {0.2F, 0.4F, 0.6F, 0.8F});
  EXPECT_EQ(crop.width, 48);   // 16 up to 64.
  EXPECT_EQ(crop.height, 24);  // 18 up to 42.
  ASSERT_EQ(crop.rgb.size(), static_cast<size_t>(3 * 48 * 24));
  EXPECT_EQ(crop.rgb[0], 16);
  EXPECT_EQ(crop.rgb[1], 18);
  EXPECT_EQ(crop.rgb[crop.rgb.size() - 3], 63);
  EXPECT_EQ(crop.rgb[crop.rgb.size() - 2], 41);
}

TEST(CropTest, StaysWithinThePictureAndIsNeverEmpty) {
  const Image whole = Crop(Numbered(7, 3), {0, 0, 1, 1});
  EXPECT_EQ(whole.width, 7);
  EXPECT_EQ(whole.height, 3);
  for (const Box& box :
       {Box{0, 0, 0, 0}, Box{1, 1, 1, 1}, Box{0.5F, 0.5F, 0.5001F, 0.5001F}}) {
    const Image crop = Crop(Numbered(7, 3), box);
    EXPECT_EQ(crop.width, 1);
    EXPECT_EQ(crop.height, 1);
    EXPECT_EQ(crop.rgb.size(), 3U);
  }
}

}  // namespace
}  // namespace quern
