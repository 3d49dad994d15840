#include "engine/media/vips_image_decoder.h"

#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/media/image_writer.h"
#include "engine/media/preprocess.h"
#include "tests/media/pictures.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

// What JPEG and AVIF at high quality may change, averaged.
constexpr double kLossyMean = 2.5;

void ExpectInvalid(const absl::StatusOr<Image>& image,
                   absl::string_view message) {
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(image.status().message()),
              HasSubstr(std::string(message)));
}

absl::StatusOr<Image> DecodeFile(absl::string_view name) {
  return MakeDecoder()->Decode(ReadTestData(absl::StrCat("pictures/", name)));
}

Image Load(absl::string_view name) {
  return LoadTestImage(absl::StrCat("pictures/", name));
}

// --- Formats -----------------------------------------------------------------

TEST(VipsImageDecoderTest, DecodesLosslessFormatsExactly) {
  const Image photo = Load("photo.png");
  EXPECT_EQ(photo.width, 64);
  EXPECT_EQ(photo.height, 48);
  for (absl::string_view name : {"photo.webp", "photo.tiff", "16bit.png"}) {
    EXPECT_EQ(Compare(Load(name), photo).max, 0) << name;
  }
}

TEST(VipsImageDecoderTest, DecodesLossyFormats) {
  const Image photo = Load("photo.png");
  for (absl::string_view name :
       {"photo.jpg", "progressive.jpg", "photo.avif", "photo.heic"}) {
    EXPECT_LT(Compare(Load(name), photo).mean, kLossyMean) << name;
  }
}

TEST(VipsImageDecoderTest, TakesTheFirstFrame) {
  EXPECT_EQ(Compare(Load("animated.gif"), Load("first_frame.png")).max, 0);
}

TEST(VipsImageDecoderTest, DecodesOnePixel) {
  for (absl::string_view name :
       {"one_pixel.png", "one_pixel.jpg", "one_pixel.gif", "one_pixel.webp"}) {
    const Image pixel = Load(name);
    const Image expected = {.width = 1, .height = 1, .rgb = {200, 100, 50}};
    EXPECT_LE(Compare(pixel, expected).max, 3) << name;
  }
}

TEST(VipsImageDecoderTest, TurnsEveryExifOrientationUpright) {
  const Image photo = Load("photo.png");
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const Image upright =
        Load(absl::StrCat("orientation_", orientation, ".jpg"));
    EXPECT_LT(Compare(upright, photo).mean, kLossyMean) << orientation;
  }
}

// --- Colours -----------------------------------------------------------------

// Rec. 601 luma, as Pillow's convert("L").
Image ToGrey(Image image) {
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    uint8_t* pixel = &image.rgb[i];
    const double luma = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
    std::fill_n(pixel, 3, static_cast<uint8_t>(std::lround(luma)));
  }
  return image;
}

TEST(VipsImageDecoderTest, SpreadsGreyOverThreeChannels) {
  const Image grey = ToGrey(Load("photo.png"));
  EXPECT_LT(Compare(Load("grey.jpg"), grey).mean, kLossyMean);
  EXPECT_LE(Compare(Load("16bit_grey.png"), grey).max, 1);
}

TEST(VipsImageDecoderTest, ConvertsCmyk) {
  // Inks have no exact counterpart without a profile: the colours must be near.
  EXPECT_LT(Compare(Load("cmyk.jpg"), Load("photo.png")).mean, 50);
}

TEST(VipsImageDecoderTest, PutsAlphaOnWhite) {
  const Image expected = Load("alpha_on_white.png");
  EXPECT_EQ(Compare(Load("alpha.png"), expected).max, 0);
  EXPECT_EQ(Compare(Load("alpha.webp"), expected).max, 0);
  EXPECT_LE(Compare(Load("16bit_alpha.png"), expected).max, 1);
  EXPECT_LE(Compare(Load("grey_alpha.png"), ToGrey(expected)).max, 1);
  const Image palette = {
      .width = 2, .height = 1, .rgb = {200, 100, 50, 255, 255, 255}};
  EXPECT_EQ(Compare(Load("palette_alpha.png"), palette).max, 0);
}

TEST(VipsImageDecoderTest, FollowsTheEmbeddedProfile) {
  // The profile exchanges red and green.
  Image expected = Load("photo.png");
  for (size_t i = 0; i < expected.rgb.size(); i += 3) {
    std::swap(expected.rgb[i], expected.rgb[i + 1]);
  }
  // sRGB's curve is not quite the profile's gamma of 2.2.
  EXPECT_LT(Compare(Load("swapped_profile.png"), expected).mean, 4);
}

TEST(VipsImageDecoderTest, IgnoresAProfileThatDoesNotFit) {
  const Image photo = Load("photo.png");
  EXPECT_EQ(Compare(Load("broken_profile.png"), photo).max, 0);
  EXPECT_LT(Compare(Load("misfit_profile.jpg"), ToGrey(photo)).mean,
            kLossyMean);
}

// --- Shrinking while decoding
// --------------------------------------------------

std::string DrawnJpeg(int64_t width, int64_t height) {
  return *EncodeJpeg(
      Resize(Load("photo.png"), width, height, ResizeFilter::kBilinear), 95);
}

TEST(VipsImageDecoderTest, ShrinksJpegButStaysTwiceAsLargeAsAsked) {
  struct Case {
    int64_t hint_width, hint_height;
    int64_t width, height;
  };
  const Case cases[] = {
      {0, 0, 800, 600},     {100, 0, 800, 600},   {50, 37, 100, 75},
      {50, 38, 200, 150},   {100, 75, 200, 150},  {101, 75, 400, 300},
      {200, 150, 400, 300}, {200, 151, 800, 600}, {900, 900, 800, 600},
  };
  const std::string encoded = DrawnJpeg(800, 600);
  for (const Case& shrunk : cases) {
    const auto image =
        MakeDecoder()->Decode(encoded, shrunk.hint_width, shrunk.hint_height);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->width, shrunk.width) << shrunk.hint_width;
    EXPECT_EQ(image->height, shrunk.height) << shrunk.hint_height;
  }
}

TEST(VipsImageDecoderTest, ShrunkJpegLooksTheSame) {
  const std::string encoded = DrawnJpeg(803, 601);
  const auto full = MakeDecoder()->Decode(encoded);
  const auto shrunk = MakeDecoder()->Decode(encoded, 64, 48);
  ASSERT_TRUE(full.ok() && shrunk.ok());
  EXPECT_LT(shrunk->width, full->width);
  const Difference difference =
      Compare(Resize(*full, 64, 48, ResizeFilter::kBicubic),
              Resize(*shrunk, 64, 48, ResizeFilter::kBicubic));
  EXPECT_LT(difference.mean, 2);
}

TEST(VipsImageDecoderTest, HintsAreForTheUprightPicture) {
  // 64 x 48 upright, stored as 48 x 64.
  const std::string encoded = ReadTestData("pictures/orientation_6.jpg");
  const auto shrunk = MakeDecoder()->Decode(encoded, 16, 12);
  ASSERT_TRUE(shrunk.ok()) << shrunk.status();
  EXPECT_EQ(shrunk->width, 32);
  EXPECT_EQ(shrunk->height, 24);
  EXPECT_EQ(shrunk->original_width, 64);
  EXPECT_EQ(shrunk->original_height, 48);
  const auto whole = MakeDecoder()->Decode(encoded, 12, 16);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->width, 64);
}

// --- Bad input
// -----------------------------------------------------------------

TEST(VipsImageDecoderTest, RefusesNoBytes) {
  ExpectInvalid(MakeDecoder()->Decode(""), "the picture is empty");
}

TEST(VipsImageDecoderTest, RefusesWhatIsNoPicture) {
  for (absl::string_view text :
       {"x", "Just a text file that somebody named .jpg\n",
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"/>",
        "%PDF-1.4\n1 0 obj\n", "P6\n1 1\n255\nabc", "1 2\n3 4\n",
        "#?RADIANCE\n", "push graphic-context\n"}) {
    ExpectInvalid(MakeDecoder()->Decode(text),
                  "not a picture in a known format (JPEG, PNG,");
  }
}

TEST(VipsImageDecoderTest, RefusesTruncatedPictures) {
  for (absl::string_view name :
       {"photo.jpg", "progressive.jpg", "photo.png", "photo.webp", "photo.tiff",
        "photo.avif", "photo.heic", "animated.gif", "16bit_alpha.png",
        "orientation_6.jpg"}) {
    const std::string encoded = ReadTestData(absl::StrCat("pictures/", name));
    ExpectInvalid(MakeDecoder()->Decode(encoded.substr(0, encoded.size() / 2)),
                  "damaged picture: ");
  }
}

TEST(VipsImageDecoderTest, RefusesHugeDimensionsByTheirHeader) {
  ExpectInvalid(DecodeFile("header_30000.png"),
                "the picture is 30000 x 30000 = 900000000 pixels, over the "
                "limit of 100000000 pixels");
  ExpectInvalid(DecodeFile("bomb_12000.png"), "12000 x 12000 = 144000000");
  ExpectInvalid(DecodeFile("bomb.gif"),
                "over the limit of 32768 pixels a side");
}

TEST(VipsImageDecoderTest, BombsInMetadataDoNoHarm) {
  const Image pixel = {.width = 1, .height = 1, .rgb = {200, 100, 50}};
  for (absl::string_view name : {"text_bomb.png", "profile_bomb.png"}) {
    const absl::StatusOr<Image> image = DecodeFile(name);
    if (image.ok()) {
      EXPECT_EQ(Compare(*image, pixel).max, 0) << name;
    } else {
      ExpectInvalid(image, "damaged picture: ");
    }
  }
}

TEST(VipsImageDecoderTest, AppliesEachLimitExactly) {
  const std::string encoded = ReadTestData("pictures/photo.png");
  const int64_t size = static_cast<int64_t>(encoded.size());
  EXPECT_TRUE(MakeDecoder({.max_bytes = size})->Decode(encoded).ok());
  ExpectInvalid(MakeDecoder({.max_bytes = size - 1})->Decode(encoded),
                absl::StrCat("the picture has ", size,
                             " bytes, over the limit of ", size - 1));
  EXPECT_TRUE(MakeDecoder({.max_pixels = 3072})->Decode(encoded).ok());
  ExpectInvalid(MakeDecoder({.max_pixels = 3071})->Decode(encoded),
                "over the limit of 3071 pixels");
  EXPECT_TRUE(MakeDecoder({.max_side = 64})->Decode(encoded).ok());
  ExpectInvalid(MakeDecoder({.max_side = 63})->Decode(encoded),
                "64 x 48 pixels, over the limit of 63 pixels a side");
}

TEST(VipsImageDecoderTest, RefusesLimitsBelowOne) {
  for (const ImageLimits& limits :
       {ImageLimits{.max_bytes = 0}, ImageLimits{.max_pixels = 0},
        ImageLimits{.max_side = -1}}) {
    EXPECT_EQ(VipsImageDecoder::Create({.limits = limits}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(VipsImageDecoderTest, SurvivesDamageAnywhere) {
  const auto decoder = MakeDecoder({.max_pixels = 1'000'000});
  std::mt19937 random(11);
  for (absl::string_view name :
       {"photo.jpg", "progressive.jpg", "cmyk.jpg", "orientation_6.jpg",
        "photo.png", "palette_alpha.png", "swapped_profile.png", "photo.webp",
        "photo.tiff", "photo.avif", "photo.heic", "animated.gif"}) {
    const std::string encoded = ReadTestData(absl::StrCat("pictures/", name));
    for (int round = 0; round < 60; ++round) {
      std::string damaged = encoded.substr(0, 1 + random() % encoded.size());
      if (round % 2 == 0) damaged = encoded;
      for (int flips = 0; flips < 1 + round / 10; ++flips) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      const auto image = decoder->Decode(damaged, 8, 8);
      if (image.ok()) {
        EXPECT_EQ(image->rgb.size(), image->width * image->height * 3);
      } else {
        EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument);
      }
    }
  }
}

// --- Threads
// -------------------------------------------------------------------

TEST(VipsImageDecoderTest, DecodesOnManyThreads) {
  const auto decoder = MakeDecoder();
  const std::string good = ReadTestData("pictures/photo.jpg");
  const std::string turned = ReadTestData("pictures/orientation_8.jpg");
  const Image expected = *decoder->Decode(good);
  const Image expected_turned = *decoder->Decode(turned);
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        EXPECT_EQ(decoder->Decode(good)->rgb, expected.rgb);
        EXPECT_EQ(decoder->Decode(turned)->rgb, expected_turned.rgb);
        ExpectInvalid(decoder->Decode(good.substr(0, good.size() / 2)),
                      "damaged picture: ");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quern
