#include "engine/media/image_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/media/pictures.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ImageWriterTest, PngComesBackUnchanged) {
  const Image photo = LoadTestImage("pictures/photo.png");
  const auto encoded = EncodePng(photo);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(*encoded, StartsWith("\x89PNG"));
  const auto decoded = MakeDecoder()->Decode(*encoded);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Compare(photo, *decoded).max, 0);
}

TEST(ImageWriterTest, JpegComesBackAlike) {
  const Image photo = LoadTestImage("pictures/photo.png");
  const auto encoded = EncodeJpeg(photo, 95);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(*encoded, StartsWith("\xFF\xD8\xFF"));
  const auto decoded = MakeDecoder()->Decode(*encoded);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_LT(Compare(photo, *decoded).mean, 2.5);
  EXPECT_LT(EncodeJpeg(photo, 30)->size(), encoded->size());
}

TEST(ImageWriterTest, WritesOnePixel) {
  const Image pixel = {.width = 1, .height = 1, .rgb = {1, 2, 3}};
  EXPECT_TRUE(EncodeJpeg(pixel, 80).ok());
  EXPECT_TRUE(EncodePng(pixel).ok());
}

TEST(ImageWriterTest, RefusesWhatIsNoPicture) {
  const Image empty;
  const Image misshapen = {.width = 2, .height = 2, .rgb = {1, 2, 3}};
  for (const Image& image : {empty, misshapen}) {
    EXPECT_EQ(EncodePng(image).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(EncodeJpeg(image, 80).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ImageWriterTest, RefusesQualityOutOfRange) {
  const Image pixel = {.width = 1, .height = 1, .rgb = {1, 2, 3}};
  for (int quality : {-1, 0, 101}) {
    const auto encoded = EncodeJpeg(pixel, quality);
    EXPECT_EQ(encoded.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(encoded.status().message(), HasSubstr("is not in 1..100"));
  }
}

}  // namespace
}  // namespace quern
