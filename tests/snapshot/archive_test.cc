#include "engine/snapshot/archive.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <archive.h>
#include <archive_entry.h>

#include "engine/base/clock.h"
#include "tests/snapshot/snapshot_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

const RealClock kClock;

std::string TarOf(const std::string& directory) {
  const auto reader = ValueOrDie(ArchiveReader::Open(directory));
  std::string tar;
  while (true) {
    const std::optional<std::string> piece = ValueOrDie(reader->Next());
    if (!piece.has_value()) return tar;
    EXPECT_LE(static_cast<int64_t>(piece->size()), kMaxArchivePieceBytes);
    tar += *piece;
  }
}

ArchiveSource PiecesOf(const std::string& tar, size_t piece_bytes) {
  return
      [tar, piece_bytes,
       at = size_t{0}]() mutable -> absl::StatusOr<std::optional<std::string>> {
        if (at == tar.size()) return std::nullopt;
        std::string piece = tar.substr(at, piece_bytes);
        at += piece.size();
        return piece;
      };
}

absl::StatusOr<SnapshotManifest> Unpack(const std::string& tar,
                                        const std::string& directory,
                                        size_t piece_bytes = 1 << 20) {
  const RequestContext context(&kClock, "test");
  return UnpackArchive(PiecesOf(tar, piece_bytes), directory, context);
}

// What makes an entry other than a plain file.
using Mark = std::function<void(archive_entry*)>;

// A tar of whatever entries, written by libarchive.
class Tar {
 public:
  Tar() : tar_(archive_write_new()) {
    archive_write_set_format_pax_restricted(tar_);
    archive_write_open(
        tar_, &bytes_, nullptr,
        [](archive*, void* bytes, const void* data, size_t size) {
          static_cast<std::string*>(bytes)->append(
              static_cast<const char*>(data), size);
          return static_cast<la_ssize_t>(size);
        },
        nullptr);
  }

  Tar& Add(const std::string& path, const std::string& contents,
           const Mark& mark = nullptr) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_size(entry, static_cast<int64_t>(contents.size()));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    if (mark != nullptr) mark(entry);
    EXPECT_EQ(archive_write_header(tar_, entry), ARCHIVE_OK)
        << archive_error_string(tar_);
    archive_write_data(tar_, contents.data(), contents.size());
    archive_entry_free(entry);
    return *this;
  }

  Tar& AddManifest(const std::map<std::string, std::string>& files) {
    return Add("snapshot.json", FormatSnapshotManifest(ManifestOf(files)));
  }

  std::string Close() {
    archive_write_close(tar_);
    archive_write_free(tar_);
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  archive* const tar_;
};

class ArchiveTest : public ::testing::Test {
 protected:
  ArchiveTest() { WriteSnapshot(from_.path(), SomeFiles()); }

  // Refused, naming `why`, whatever the pieces; nothing lies outside of the
  // folder that it was unpacked into.
  static void ExpectRefused(const std::string& tar, const std::string& why) {
    for (const size_t piece_bytes : {size_t{1} << 20, size_t{1000}}) {
      TemporaryDirectory parent;
      const std::string directory = parent.File("inner");
      std::filesystem::create_directory(directory);
      EXPECT_THAT(Unpack(tar, directory, piece_bytes).status(),
                  StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)));
      int beside = 0;
      for ([[maybe_unused]] const auto& entry :
           std::filesystem::directory_iterator(parent.path())) {
        ++beside;
      }
      EXPECT_EQ(beside, 1);
    }
  }

  TemporaryDirectory from_;
  TemporaryDirectory to_;
};

TEST_F(ArchiveTest, RoundTripIsByteForByte) {
  const std::string tar = TarOf(from_.path());
  for (const size_t piece_bytes : {size_t{1} << 20, size_t{511}}) {
    TemporaryDirectory to;
    ASSERT_THAT(Unpack(tar, to.path(), piece_bytes).status(), IsOk());
    EXPECT_EQ(ReadTree(to.path()), ReadTree(from_.path()));
    EXPECT_EQ(TarOf(to.path()), tar);
  }
}

TEST_F(ArchiveTest, IsAPlainTar) {
  const std::string path = to_.File("snapshot.tar");
  WriteFile(path, TarOf(from_.path()));
  const std::string out = to_.File("out");
  std::filesystem::create_directory(out);
  ASSERT_EQ(std::system(absl::StrCat("tar -xf ", path, " -C ", out).c_str()),
            0);
  EXPECT_EQ(ReadTree(out), ReadTree(from_.path()));
}

TEST_F(ArchiveTest, ADamagedSnapshotIsNotExported) {
  std::string changed = SomeFiles()["items/000007.sst"];
  changed[1000] = 'y';
  WriteFile(from_.File("items/000007.sst"), changed);
  const auto reader = ValueOrDie(ArchiveReader::Open(from_.path()));
  absl::Status status;
  while (status.ok()) {
    const auto piece = reader->Next();
    status = piece.status();
    ASSERT_FALSE(piece.ok() && !piece->has_value());
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss,
                               HasSubstr("items/000007.sst")));
}

TEST_F(ArchiveTest, AReaderMayStopInTheMiddle) {
  const auto reader = ValueOrDie(ArchiveReader::Open(from_.path()));
  EXPECT_TRUE(ValueOrDie(reader->Next()).has_value());
}

TEST_F(ArchiveTest, TruncatedAnywhere) {
  const std::string tar = TarOf(from_.path());
  // Without the zeros at the end, which say nothing.
  const size_t end = tar.find_last_not_of('\0');
  for (const size_t bytes :
       {size_t{0}, size_t{100}, size_t{512}, size_t{700}, size_t{4096},
        tar.size() / 2, end - 2000, end - 512}) {
    ExpectRefused(tar.substr(0, bytes), "not an intact snapshot");
  }
}

TEST_F(ArchiveTest, NoTarAtAll) {
  ExpectRefused("this is not a tar", "not an intact snapshot");
  ExpectRefused(std::string(5000, 'x'), "not an intact snapshot");
  ExpectRefused(std::string(20480, '\0'), "first entry is not snapshot.json");
  ExpectRefused("\x1f\x8b\x08" + std::string(2000, 'z'),
                "not an intact snapshot");
}

TEST_F(ArchiveTest, AChangedByteAnywhere) {
  const std::string tar = TarOf(from_.path());
  const size_t end = tar.find_last_not_of('\0');
  for (size_t at = 3; at < end; at += 9973) {
    std::string changed = tar;
    changed[at] = static_cast<char>(changed[at] ^ 0x20);
    TemporaryDirectory to;
    const auto unpacked = Unpack(changed, to.path());
    // A byte of padding says nothing.
    if (unpacked.ok()) {
      EXPECT_EQ(ReadTree(to.path()), ReadTree(from_.path())) << at;
    } else {
      EXPECT_THAT(unpacked.status(),
                  StatusIs(absl::StatusCode::kInvalidArgument));
    }
  }
}

TEST_F(ArchiveTest, PathsOutsideOfTheSnapshot) {
  for (const std::string path :
       {"../evil", "/tmp/quern-evil", "items/../../evil", "items/a/b", "./x",
        "extra", "."}) {
    ExpectRefused(Tar().AddManifest(SomeFiles()).Add(path, "evil").Close(),
                  "is not one of its files");
    // Nor does a manifest make them good.
    ExpectRefused(Tar().AddManifest({{path, "evil"}}).Add(path, "evil").Close(),
                  "snapshot.json is damaged");
  }
  ExpectRefused(Tar().AddManifest(SomeFiles()).Add("items/b", "x").Close(),
                "is not one of its files");
}

TEST_F(ArchiveTest, LinksFoldersAndDevices) {
  const std::vector<Mark> marks = {
      [](archive_entry* entry) {
        archive_entry_set_filetype(entry, AE_IFLNK);
        archive_entry_set_symlink(entry, "/etc/passwd");
      },
      [](archive_entry* entry) {
        archive_entry_set_hardlink(entry, "/etc/passwd");
      },
      [](archive_entry* entry) { archive_entry_set_filetype(entry, AE_IFDIR); },
      [](archive_entry* entry) { archive_entry_set_filetype(entry, AE_IFIFO); },
      [](archive_entry* entry) {
        archive_entry_set_filetype(entry, AE_IFCHR);
        archive_entry_set_rdev(entry, 1);
      }};
  for (const Mark& mark : marks) {
    ExpectRefused(
        Tar().AddManifest({{"items/a", ""}}).Add("items/a", "", mark).Close(),
        "not a plain file");
    ExpectRefused(Tar().Add("snapshot.json", "", mark).Close(),
                  "not a plain file");
  }
}

TEST_F(ArchiveTest, EntriesThatTheManifestDoesNotAllow) {
  const std::map<std::string, std::string> files = {{"items/a", "1234"},
                                                    {"items/b", "5678"}};
  ExpectRefused(Tar()
                    .AddManifest(files)
                    .Add("items/a", "1234")
                    .Add("items/a", "1234")
                    .Close(),
                "items/a comes twice");
  ExpectRefused(Tar().AddManifest(files).Add("items/a", "1234").Close(),
                "items/b is missing");
  ExpectRefused(Tar().AddManifest(files).Add("items/a", "12345").Close(),
                "items/a has 5 bytes, not 4");
  ExpectRefused(Tar().AddManifest(files).Add("items/a", "123x").Close(),
                "items/a does not fit its checksum");
  ExpectRefused(Tar().Add("items/a", "1234").AddManifest(files).Close(),
                "first entry is not snapshot.json");
  ExpectRefused(Tar()
                    .AddManifest(files)
                    .Add("items/a", "1234")
                    .Add("items/b", "5678")
                    .AddManifest(files)
                    .Close(),
                "is not one of its files");
  ExpectRefused(Tar().Add("snapshot.json", std::string(17 << 20, ' ')).Close(),
                "the limit is 16777216");
}

TEST_F(ArchiveTest, MoreBytesThanTheContentsCanTake) {
  const std::string tar = TarOf(from_.path());
  ExpectRefused(tar + std::string(3 << 20, '\0'), "more than the");
}

TEST_F(ArchiveTest, MoreThanTheDiskHolds) {
  SnapshotManifest manifest = ManifestOf({{"items/a", ""}});
  manifest.files[0].bytes = int64_t{1} << 45;
  const std::string tar =
      Tar().Add("snapshot.json", FormatSnapshotManifest(manifest)).Close();
  EXPECT_THAT(
      Unpack(tar, to_.path()).status(),
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("make room")));
}

TEST_F(ArchiveTest, ErrorsOfTheSourceAndTheContextComeThrough) {
  const RequestContext context(&kClock, "test");
  const std::string tar = TarOf(from_.path());
  int pieces = 0;
  const ArchiveSource failing =
      [&]() -> absl::StatusOr<std::optional<std::string>> {
    if (++pieces == 3) return absl::AbortedError("the source broke");
    return tar.substr(0, pieces == 1 ? 4096 : 0);
  };
  EXPECT_THAT(UnpackArchive(failing, to_.path(), context).status(),
              StatusIs(absl::StatusCode::kAborted));
  TemporaryDirectory other;
  RequestContext cancelled(&kClock, "test");
  cancelled.Cancel();
  EXPECT_THAT(
      UnpackArchive(PiecesOf(tar, 1 << 20), other.path(), cancelled).status(),
      StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace quern
