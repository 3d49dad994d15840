#include "client/cli/thumbnail.h"

#include <gtest/gtest.h>

#include "tests/client/tiny_gif.h"

namespace quern::cli {
namespace {

TEST(ThumbnailTest, MakesAJpegWithoutEnlarging) {
  const auto thumbnail = MakeThumbnail(TinyGif());
  ASSERT_TRUE(thumbnail.ok()) << thumbnail.status();
  EXPECT_EQ(thumbnail->width, 1);
  EXPECT_EQ(thumbnail->height, 1);
  EXPECT_EQ(thumbnail->jpeg.substr(0, 3), "\xFF\xD8\xFF");
}

TEST(ThumbnailTest, RefusesWhatIsNoPicture) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakeThumbnail("just text").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeThumbnail("").status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(MakeThumbnail(TinyGif().substr(0, 12)).status()));
}

}  // namespace
}  // namespace quern::cli
