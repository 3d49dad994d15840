#include "engine/base/file.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/unprivileged.h"

namespace quern {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(FileTest, WrittenFileReadsBack) {
  TemporaryDirectory directory;
  const std::string path = directory.File("state");
  const std::string contents("a\0b\xff\n", 5);

  ASSERT_THAT(WriteFileAtomically(path, contents), IsOk());

  EXPECT_EQ(ValueOrDie(ReadFile(path)), contents);
}

TEST(FileTest, WriteReplacesTheWholeFileAndLeavesNothingElse) {
  TemporaryDirectory directory;
  const std::string path = directory.File("state");
  ASSERT_THAT(WriteFileAtomically(path, std::string(200'000, 'x')), IsOk());

  ASSERT_THAT(WriteFileAtomically(path, "short"), IsOk());

  EXPECT_EQ(ValueOrDie(ReadFile(path)), "short");
  const std::filesystem::directory_iterator entries(directory.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST(FileTest, FailedWriteKeepsTheOldFile) {
  TemporaryDirectory directory;
  const std::string path = directory.File("state");
  ASSERT_THAT(WriteFileAtomically(path, "old"), IsOk());
  // A folder in the temporary file's place makes the write fail, even for root.
  ASSERT_TRUE(std::filesystem::create_directory(path + ".tmp"));

  EXPECT_FALSE(WriteFileAtomically(path, "new").ok());

  EXPECT_EQ(ValueOrDie(ReadFile(path)), "old");
}

TEST(FileTest, MissingFileIsNotFoundAndNamed) {
  TemporaryDirectory directory;
  const std::string path = directory.File("nothing");
  EXPECT_THAT(ReadFile(path),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
  EXPECT_THAT(Sha256HexOfFile(path), StatusIs(absl::StatusCode::kNotFound));
}

TEST(FileTest, EnsureDirectoryCreatesParents) {
  TemporaryDirectory directory;
  const std::string path = directory.File("a/b/c");

  ASSERT_THAT(EnsureDirectory(path), IsOk());
  ASSERT_THAT(EnsureDirectory(path + "/d/"), IsOk());
  EXPECT_THAT(EnsureDirectory(path), IsOk());

  EXPECT_TRUE(std::filesystem::is_directory(path + "/d"));
}

TEST(FileTest, EnsureDirectoryRefusesAFileInItsPlace) {
  TemporaryDirectory directory;
  const std::string path = directory.File("file");
  ASSERT_THAT(WriteFileAtomically(path, ""), IsOk());

  EXPECT_THAT(EnsureDirectory(path),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(path), HasSubstr("not a folder"))));
  EXPECT_THAT(EnsureDirectory(path + "/below"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(path), HasSubstr("not a folder"))));
}

TEST(FileTest, EnsureDirectoryNamesAFolderThatIsNotWritable) {
  TemporaryDirectory directory;
  ASSERT_EQ(::chmod(directory.path().c_str(), 0555), 0);
  const Unprivileged unprivileged;
  if (!unprivileged.ok()) GTEST_SKIP() << "root cannot give up its rights";

  EXPECT_THAT(EnsureDirectory(directory.path()),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr(directory.path())));
  EXPECT_THAT(EnsureDirectory(directory.File("new")),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr(directory.File("new"))));
}

// The vectors of FIPS 180-2, appendix B, and the empty string's.
TEST(FileTest, RemovedFileIsGoneAndCannotBeRemovedAgain) {
  TemporaryDirectory directory;
  const std::string path = directory.File("record");
  ASSERT_THAT(WriteFileAtomically(path, "x"), IsOk());
  EXPECT_THAT(RemoveFileDurably(path), IsOk());
  EXPECT_THAT(ReadFile(path), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(RemoveFileDurably(path),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
}

TEST(FileTest, Sha256AgreesWithPublishedVectors) {
  EXPECT_EQ(Sha256Hex(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(FileTest, Sha256OfAFileIsThatOfItsBytes) {
  TemporaryDirectory directory;
  const std::string path = directory.File("million");
  ASSERT_THAT(WriteFileAtomically(path, std::string(1'000'000, 'a')), IsOk());
  EXPECT_EQ(ValueOrDie(Sha256HexOfFile(path)),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(DirectoryLockTest, SecondHolderIsRefusedAndToldWhoHolds) {
  TemporaryDirectory directory;
  auto lock = ValueOrDie(DirectoryLock::Acquire(directory.path()));

  EXPECT_THAT(DirectoryLock::Acquire(directory.path()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(directory.path()), HasSubstr("in use"),
                             HasSubstr(absl::StrCat(::getpid())))));
  lock.reset();
  EXPECT_THAT(DirectoryLock::Acquire(directory.path()), IsOk());
}

TEST(DirectoryLockTest, DeathOfTheHolderFreesTheFolder) {
  TemporaryDirectory directory;
  const pid_t child = ::fork();
  if (child == 0) {
    const bool held = DirectoryLock::Acquire(directory.path()).ok();
    ::_exit(held ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);

  EXPECT_THAT(DirectoryLock::Acquire(directory.path()), IsOk());
}

TEST(DirectoryLockTest, NeedsTheFolder) {
  TemporaryDirectory directory;
  EXPECT_THAT(DirectoryLock::Acquire(directory.File("nothing")),
              StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace quern
