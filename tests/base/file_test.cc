#include "engine/base/file.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

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

namespace fs = std::filesystem;

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

TEST(ReadFileTest, RefusesAFileBeyondTheLimit) {
  const TemporaryDirectory directory;
  ASSERT_THAT(WriteFileAtomically(directory.File("a"), "12345"), IsOk());
  EXPECT_EQ(ValueOrDie(ReadFile(directory.File("a"), 5)), "12345");
  EXPECT_THAT(
      ReadFile(directory.File("a"), 4),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("more than 4")));
}

class ResolveBelowTest : public ::testing::Test {
 protected:
  ResolveBelowTest() {
    fs::create_directories(root_.File("deep/er"));
    Write(root_.File("a"));
    Write(root_.File("deep/er/b"));
    Write(elsewhere_.File("secret"));
  }

  static void Write(const std::string& path) {
    ASSERT_THAT(WriteFileAtomically(path, "x"), IsOk());
  }

  absl::StatusOr<std::string> Resolve(const std::string& path) const {
    return ResolveBelow(path, roots_);
  }

  const TemporaryDirectory root_;
  const TemporaryDirectory elsewhere_;
  const std::vector<std::string> roots_ = {"/nonexistent", root_.path() + "/"};
};

TEST_F(ResolveBelowTest, FindsWhatLiesBelowARoot) {
  const std::string real_root = fs::canonical(root_.path());
  EXPECT_EQ(ValueOrDie(Resolve("a")), real_root + "/a");
  EXPECT_EQ(ValueOrDie(Resolve(root_.File("a"))), real_root + "/a");
  EXPECT_EQ(ValueOrDie(Resolve("file://" + root_.File("a"))), real_root + "/a");
  EXPECT_EQ(ValueOrDie(Resolve("deep/../deep/er/b")), real_root + "/deep/er/b");
  EXPECT_EQ(ValueOrDie(Resolve("deep")), real_root + "/deep");
}

TEST_F(ResolveBelowTest, RefusesWhatLiesElsewhere) {
  fs::create_symlink(elsewhere_.File("secret"), root_.File("link"));
  for (const std::string& path :
       {std::string("/etc/passwd"), std::string("../../etc/passwd"),
        elsewhere_.File("secret"), std::string("link"),
        // A folder whose name begins as the root's does.
        root_.path() + "x/a", std::string("/nonexistent/a")}) {
    EXPECT_THAT(Resolve(path), StatusIs(absl::StatusCode::kPermissionDenied))
        << path;
  }
  EXPECT_THAT(ResolveBelow("a", {}),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(ResolveBelowTest, SaysWhatIsMissingOrNoPath) {
  EXPECT_THAT(Resolve("nobody"), StatusIs(absl::StatusCode::kNotFound));
  for (const std::string& path :
       {std::string(), std::string("a\0b", 3), std::string(4097, 'a')}) {
    EXPECT_THAT(Resolve(path), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  // A pipe would be read for ever.
  ASSERT_EQ(::mkfifo(root_.File("pipe").c_str(), 0600), 0);
  EXPECT_THAT(Resolve("pipe"), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quern
