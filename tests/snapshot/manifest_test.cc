#include "engine/snapshot/manifest.h"

#include <filesystem>
#include <string>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/snapshot/snapshot_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

const RealClock kClock;

TEST(ManifestTest, ComesBackAsItWas) {
  const SnapshotManifest manifest = ManifestOf(SomeFiles());
  const SnapshotManifest read =
      ValueOrDie(ParseSnapshotManifest(FormatSnapshotManifest(manifest)));
  EXPECT_EQ(read.collection, "photos");
  EXPECT_EQ(read.name, "monday");
  EXPECT_EQ(read.item_count, 3);
  EXPECT_EQ(read.create_time, manifest.create_time);
  EXPECT_EQ(read.model_fingerprint, "f00d");
  ASSERT_EQ(read.files.size(), 4U);
  EXPECT_EQ(read.files[2].path, "items/000007.sst");
  EXPECT_EQ(read.files[2].bytes, (1 << 20) + 12345);
  EXPECT_EQ(read.files[2].sha256, manifest.files[2].sha256);
  EXPECT_EQ(read.size_bytes(), (1 << 20) + 12345 + 12);
  EXPECT_EQ(FormatSnapshotManifest(read), FormatSnapshotManifest(manifest));
}

TEST(ManifestTest, EveryChangedByteIsFound) {
  const std::string text =
      FormatSnapshotManifest(ManifestOf({{"items/a", "b"}}));
  int64_t refused = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    const auto parsed = ParseSnapshotManifest(changed);
    if (parsed.ok()) {
      // White space between the tokens.
      EXPECT_EQ(FormatSnapshotManifest(*parsed), text) << i;
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int64_t>(text.size()) / 2);
}

TEST(ManifestTest, ANewerFormatIsRefusedWithTheCure) {
  const std::string newer =
      absl::StrReplaceAll(FormatSnapshotManifest(ManifestOf({})),
                          {{"\"format_version\": 1", "\"format_version\": 2"}});
  EXPECT_THAT(ParseSnapshotManifest(newer).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("newer version of Quern")));
}

TEST(ManifestTest, PathsThatLeaveTheSnapshotAreRefused) {
  for (const char* good :
       {"collection.json", "items/CURRENT", "items/000001.sst",
        "items/MANIFEST-000005", "index/shard-0.faiss"}) {
    EXPECT_THAT(CheckFilePath(good), IsOk());
  }
  for (const std::string& bad :
       {std::string(""), std::string("/etc/passwd"), std::string("../x"),
        std::string("items/../x"), std::string("items/.."),
        std::string("items/."), std::string("items/.hidden"),
        std::string("items//x"), std::string("items/"), std::string("items"),
        std::string("items/a/b"), std::string("other/x"),
        std::string("snapshot.json"), std::string("./collection.json"),
        std::string("items/a\0b", 9), std::string("items/a\\b"),
        std::string("items/\xc3\xa9"), "items/" + std::string(129, 'a')}) {
    EXPECT_THAT(CheckFilePath(bad),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(
        ParseSnapshotManifest(FormatSnapshotManifest(ManifestOf({{bad, ""}})))
            .status(),
        StatusIs(absl::StatusCode::kDataLoss));
  }
}

TEST(ManifestTest, VerifyNamesTheFileThatDoesNotFit) {
  const auto files = SomeFiles();
  const RequestContext context(&kClock, "test");
  for (const auto& [path, contents] : files) {
    TemporaryDirectory directory;
    WriteSnapshot(directory.path(), files);
    const SnapshotManifest manifest =
        ValueOrDie(ReadSnapshotManifest(directory.path()));
    EXPECT_THAT(VerifyFiles(directory.path(), manifest, context), IsOk());
    const auto names_it =
        StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path));
    const std::string file = directory.File(path);
    if (!contents.empty()) {
      std::string changed = contents;
      changed[contents.size() / 2] ^= 0x10;
      WriteFile(file, changed);
      EXPECT_THAT(VerifyFiles(directory.path(), manifest, context), names_it);
    }
    WriteFile(file, contents + "x");
    EXPECT_THAT(VerifyFiles(directory.path(), manifest, context), names_it);
    std::filesystem::remove(file);
    EXPECT_THAT(VerifyFiles(directory.path(), manifest, context), names_it);
    std::filesystem::create_symlink("/dev/null", file);
    EXPECT_THAT(VerifyFiles(directory.path(), manifest, context), names_it);
  }
}

}  // namespace
}  // namespace quern
