#include "client/cli/file_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/files.h"
#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::ElementsAre;

std::vector<std::string> Names(const ScanResult& scan) {
  std::vector<std::string> names;
  for (const MediaFile& file : scan.files) names.push_back(file.relative);
  return names;
}

TEST(FileScanTest, PicturesAreKnownByTheirEnding) {
  for (const char* name : {"a.jpg", "a.JPEG", "a.Png", "a.webp", "a.gif",
                           "a.tif", "a.TIFF", "a.heic", "a.avif"}) {
    EXPECT_TRUE(IsPictureName(name)) << name;
  }
  for (const char* name : {"a.txt", "jpg", ".jpg", "a.jpg.txt", ""}) {
    EXPECT_FALSE(IsPictureName(name)) << name;
  }
}

TEST(FileScanTest, VideosAreKnownByTheirEnding) {
  for (const char* name : {"a.mp4", "a.MOV", "a.mkv", "a.webm", "a.ts"}) {
    EXPECT_TRUE(IsVideoName(name)) << name;
    EXPECT_FALSE(IsPictureName(name)) << name;
  }
  EXPECT_FALSE(IsVideoName("a.jpg"));
  const TempFolder folder;
  folder.Write("a.mp4", "x");
  folder.Write("b.jpg", "x");
  const auto scan = ScanMedia(folder.path());
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_THAT(Names(*scan), ElementsAre("a.mp4", "b.jpg"));
  EXPECT_TRUE(scan->files[0].is_video);
  EXPECT_FALSE(scan->files[1].is_video);
}

TEST(FileScanTest, FindsPicturesBelowInByteOrder) {
  const TempFolder folder;
  folder.Write("b.jpg", "x");
  folder.Write("a/z.png", "xy");
  folder.Write("a/deep/y.JPG", "x");
  folder.Write("B.gif", "x");
  folder.Write("notes.txt", "x");
  const auto scan = ScanMedia(folder.path());
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_THAT(Names(*scan),
              ElementsAre("B.gif", "a/deep/y.JPG", "a/z.png", "b.jpg"));
  EXPECT_EQ(scan->files[2].size_bytes, 2);
  EXPECT_TRUE(scan->files[2].path.is_absolute());
  EXPECT_TRUE(scan->broken.empty());
}

TEST(FileScanTest, LeavesOutHiddenFilesAndFolders) {
  const TempFolder folder;
  folder.Write(".hidden.jpg", "x");
  folder.Write(".git/a.jpg", "x");
  folder.Write("seen.jpg", "x");
  const auto scan = ScanMedia(folder.path());
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_THAT(Names(*scan), ElementsAre("seen.jpg"));
}

TEST(FileScanTest, FollowsLinksToFilesOnly) {
  const TempFolder folder;
  folder.Write("real.jpg", "x");
  std::filesystem::create_symlink("real.jpg", folder.path() / "link.jpg");
  std::filesystem::create_directory_symlink(".", folder.path() / "loop");
  std::filesystem::create_symlink("nowhere", folder.path() / "dangling.jpg");
  const auto scan = ScanMedia(folder.path());
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_THAT(Names(*scan), ElementsAre("link.jpg", "real.jpg"));
  ASSERT_EQ(scan->broken.size(), 1);
  EXPECT_EQ(scan->broken[0].name, "dangling.jpg");
}

TEST(FileScanTest, ReportsWhatCannotBeUsed) {
  const TempFolder folder;
  folder.Write("empty.jpg", "");
  folder.Write("b\xff.jpg", "x");
  const auto scan = ScanMedia(folder.path());
  ASSERT_TRUE(scan.ok()) << scan.status();
  EXPECT_TRUE(scan->files.empty());
  ASSERT_EQ(scan->broken.size(), 2);
  EXPECT_EQ(scan->broken[0].name, "b\xEF\xBF\xBD.jpg");
  EXPECT_EQ(scan->broken[0].reason, "its name is not UTF-8");
  EXPECT_EQ(scan->broken[1].reason, "is empty");
}

TEST(FileScanTest, AMissingFolderIsAnError) {
  EXPECT_TRUE(absl::IsNotFound(ScanMedia("/no/such/folder").status()));
}

TEST(FileScanTest, ReadsFilesUpToTheLimit) {
  const TempFolder folder;
  const auto path = folder.Write("a", std::string("a\0b", 3));
  EXPECT_EQ(*ReadFile(path, 3), std::string("a\0b", 3));
  EXPECT_FALSE(ReadFile(path, 2).ok());
  EXPECT_FALSE(ReadFile(folder.path() / "none", 10).ok());
  EXPECT_FALSE(ReadFile(folder.path(), 10).ok());
}

}  // namespace
}  // namespace quern::cli
