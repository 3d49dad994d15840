#include "engine/snapshot/snapshot_folder.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/base/copy_file.h"
#include "engine/base/sha256.h"
#include "engine/snapshot/snapshot_files.h"
#include "tests/snapshot/snapshot_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SnapshotFolderTest : public ::testing::Test {
 protected:
  std::unique_ptr<SnapshotFolder> Open(bool read_only = false) {
    return ValueOrDie(SnapshotFolder::Open({.path = directory_.File("s"),
                                            .read_only = read_only,
                                            .clock = &clock_}));
  }

  std::unique_ptr<SnapshotFolder::Draft> Fill(SnapshotFolder& folder,
                                              const std::string& collection,
                                              const std::string& name) {
    auto draft = ValueOrDie(folder.Begin(collection, name));
    WriteFile(draft->directory() + "/collection.json", "{}");
    WriteFile(draft->directory() + "/items/000001.sst", "items of " + name);
    return draft;
  }

  SnapshotInfo Make(SnapshotFolder& folder, const std::string& collection,
                    const std::string& name) {
    const auto draft = Fill(folder, collection, name);
    return ValueOrDie(
        draft->Commit(ValueOrDie(draft->Describe(3, "f00d", context_))));
  }

  static std::vector<std::string> Names(
      const std::vector<SnapshotInfo>& snapshots) {
    std::vector<std::string> names;
    for (const SnapshotInfo& snapshot : snapshots) {
      names.push_back(absl::StrCat(snapshot.collection, "/", snapshot.name));
    }
    return names;
  }

  // Everything below the folder but the files of the named snapshots.
  std::vector<std::string> Rubbish() const {
    std::vector<std::string> found;
    for (const auto& collection :
         fs::directory_iterator(directory_.File("s"))) {
      for (const auto& entry : fs::directory_iterator(collection)) {
        if (entry.path().filename().string()[0] == '.') {
          found.push_back(entry.path());
        }
      }
    }
    return found;
  }

  FakeClock clock_{absl::FromCivil(absl::CivilSecond(2026, 11, 23, 18, 45, 1),
                                   absl::UTCTimeZone())};
  const RealClock real_clock_;
  RequestContext context_{&real_clock_, "test"};
  TemporaryDirectory directory_;
};

TEST_F(SnapshotFolderTest, KeepsWhatWasCommittedAcrossReopening) {
  auto folder = Open();
  const SnapshotInfo made = Make(*folder, "photos", "monday");
  EXPECT_EQ(made.size_bytes, 2 + 15);
  folder = Open();
  const auto listed = ValueOrDie(folder->List("photos"));
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0].name, "monday");
  EXPECT_EQ(listed[0].collection, "photos");
  EXPECT_EQ(listed[0].item_count, 3);
  EXPECT_EQ(listed[0].size_bytes, 17);
  EXPECT_EQ(listed[0].create_time, clock_.Now());
  EXPECT_EQ(listed[0].model_fingerprint, "f00d");
  const auto use = ValueOrDie(folder->Open("photos", "monday"));
  EXPECT_THAT(VerifyFiles(use->directory(), use->manifest(), context_), IsOk());
}

TEST_F(SnapshotFolderTest, ListsNewestFirst) {
  const auto folder = Open();
  Make(*folder, "b", "old");
  Make(*folder, "a", "old");
  clock_.Advance(absl::Seconds(1));
  Make(*folder, "b", "new");
  EXPECT_THAT(Names(ValueOrDie(folder->List(""))),
              ElementsAre("b/new", "a/old", "b/old"));
  EXPECT_THAT(Names(ValueOrDie(folder->List("b"))),
              ElementsAre("b/new", "b/old"));
  EXPECT_THAT(ValueOrDie(folder->List("unknown")), IsEmpty());
}

TEST_F(SnapshotFolderTest, ADefaultNameIsTheTime) {
  const auto folder = Open();
  EXPECT_EQ(Make(*folder, "photos", "").name, "20261123-184501");
  EXPECT_EQ(Make(*folder, "photos", "").name, "20261123-184501-2");
}

TEST_F(SnapshotFolderTest, NamesThatAreNone) {
  const auto folder = Open();
  for (const char* bad : {".", "..", "a/b", "../x", "/x", ".hidden", "A",
                          "with space", "-x", "snap.shot"}) {
    const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(folder->Begin("photos", bad).status(), invalid);
    EXPECT_THAT(folder->Begin(bad, "x").status(), invalid);
    EXPECT_THAT(folder->Open("photos", bad).status(), invalid);
    EXPECT_THAT(folder->Delete(bad, "x"), invalid);
    EXPECT_THAT(folder->List(bad).status(), invalid);
  }
}

TEST_F(SnapshotFolderTest, ANameIsTakenFromTheBeginning) {
  const auto folder = Open();
  const auto taken = StatusIs(absl::StatusCode::kAlreadyExists);
  auto draft = Fill(*folder, "photos", "x");
  EXPECT_THAT(folder->Begin("photos", "x").status(), taken);
  draft = nullptr;
  draft = Fill(*folder, "photos", "x");
  ASSERT_THAT(
      draft->Commit(ValueOrDie(draft->Describe(0, "", context_))).status(),
      IsOk());
  draft = nullptr;
  EXPECT_THAT(folder->Begin("photos", "x").status(), taken);
  EXPECT_THAT(folder->Begin("other", "x").status(), IsOk());
}

TEST_F(SnapshotFolderTest, ADraftThatIsDroppedLeavesNothing) {
  const auto folder = Open();
  Fill(*folder, "photos", "x").reset();
  EXPECT_TRUE(fs::is_empty(directory_.File("s")));
}

TEST_F(SnapshotFolderTest, WhatACrashLeftGoesAtTheNextOpen) {
  auto folder = Open();
  Make(*folder, "photos", "good");
  // A draft as a killed process leaves it.
  fs::copy(directory_.File("s/photos/good"),
           directory_.File("s/photos/.00112233"), fs::copy_options::recursive);
  fs::create_directories(directory_.File("s/other/.00112233/items"));
  // A reader leaves it alone: it may belong to a living writer.
  Open(/*read_only=*/true);
  EXPECT_EQ(Rubbish().size(), 2U);
  EXPECT_THAT(Names(ValueOrDie(folder->List(""))), ElementsAre("photos/good"));
  folder = Open();
  EXPECT_THAT(Rubbish(), IsEmpty());
  EXPECT_FALSE(fs::exists(directory_.File("s/other")));
  EXPECT_THAT(Names(ValueOrDie(folder->List(""))), ElementsAre("photos/good"));
}

TEST_F(SnapshotFolderTest, DeleteFreesTheNameAndWaitsForReaders) {
  const auto folder = Open();
  Make(*folder, "photos", "x");
  {
    const auto use = ValueOrDie(folder->Open("photos", "x"));
    EXPECT_THAT(folder->Delete("photos", "x"),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("exported or restored")));
  }
  EXPECT_THAT(folder->Delete("photos", "x"), IsOk());
  EXPECT_TRUE(fs::is_empty(directory_.File("s")));
  EXPECT_THAT(folder->Delete("photos", "x"),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(folder->Open("photos", "x").status(),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(Make(*folder, "photos", "x").name, "x");
}

TEST_F(SnapshotFolderTest, ADamagedManifestIsNamedAndCanBeDeleted) {
  const auto folder = Open();
  Make(*folder, "photos", "bad");
  Make(*folder, "photos", "good");
  WriteFile(directory_.File("s/photos/bad/snapshot.json"), "{");
  const auto is_damaged =
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("bad/snapshot.json"));
  const std::vector<SnapshotInfo> listed = ValueOrDie(folder->List("photos"));
  EXPECT_THAT(Names(listed), ElementsAre("photos/good", "photos/bad"));
  EXPECT_THAT(listed[0].error, IsOk());
  EXPECT_THAT(listed[1].error, is_damaged);
  EXPECT_THAT(folder->Open("photos", "bad").status(), is_damaged);
  EXPECT_THAT(folder->Delete("photos", "bad"), IsOk());
  EXPECT_THAT(Names(ValueOrDie(folder->List(""))), ElementsAre("photos/good"));
}

TEST_F(SnapshotFolderTest, ASnapshotWithoutAManifestIsListedAndCanBeDeleted) {
  const auto folder = Open();
  Make(*folder, "photos", "bad");
  fs::remove(directory_.File("s/photos/bad/snapshot.json"));
  const std::vector<SnapshotInfo> listed = ValueOrDie(folder->List(""));
  EXPECT_THAT(Names(listed), ElementsAre("photos/bad"));
  EXPECT_THAT(listed[0].error, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(folder->Delete("photos", "bad"), IsOk());
}

TEST_F(SnapshotFolderTest, AFileThatTheManifestDoesNotNameIsRefused) {
  const auto folder = Open();
  Make(*folder, "photos", "x");
  const auto use = ValueOrDie(folder->Open("photos", "x"));
  for (const char* stray : {"items/000099.log", "items/0.sst", "zzz"}) {
    const std::string path = use->directory() + "/" + stray;
    WriteFile(path, "stray");
    EXPECT_THAT(VerifyFiles(use->directory(), use->manifest(), context_),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
    fs::remove(path);
  }
  EXPECT_THAT(VerifyFiles(use->directory(), use->manifest(), context_), IsOk());
}

// Hashing a file of many gigabytes must end with its caller.
TEST_F(SnapshotFolderTest, HashingAsksItsContextAllAlong) {
  const std::string path = directory_.File("large");
  WriteFile(path, std::string(5 << 20, 'x'));
  EXPECT_EQ(ValueOrDie(HashFile(path, context_)),
            Sha256Hex(std::string(5 << 20, 'x')));
  int asked = 0;
  RequestContext context(&clock_, "test");
  context.AskCaller([&asked] { return ++asked == 3; });
  EXPECT_THAT(HashFile(path, context), StatusIs(absl::StatusCode::kCancelled));
}

// The second snapshot shares a file with the first, and has a new one.
TEST_F(SnapshotFolderTest, SharedFilesKeepTheirChecksumsAndNewOnesGetTheirs) {
  const auto folder = Open();
  Make(*folder, "photos", "first");
  clock_.Advance(absl::Seconds(1));
  const auto draft = ValueOrDie(folder->Begin("photos", "second"));
  fs::create_directory(draft->directory() + "/items");
  ASSERT_THAT(LinkFile(directory_.File("s/photos/first/items/000001.sst"),
                       draft->directory() + "/items/000001.sst", context_),
              IsOk());
  WriteFile(draft->directory() + "/items/000002.sst", "new");
  WriteFile(draft->directory() + "/collection.json", "[]");
  ASSERT_THAT(
      draft->Commit(ValueOrDie(draft->Describe(1, "", context_))).status(),
      IsOk());
  const auto use = ValueOrDie(folder->Open("photos", "second"));
  ASSERT_EQ(use->manifest().files.size(), 3U);
  EXPECT_THAT(VerifyFiles(use->directory(), use->manifest(), context_), IsOk());
  // It outlives the one that it shares with.
  EXPECT_THAT(folder->Delete("photos", "first"), IsOk());
  EXPECT_THAT(VerifyFiles(use->directory(), use->manifest(), context_), IsOk());
}

TEST_F(SnapshotFolderTest, AReaderChangesNothing) {
  Make(*Open(), "photos", "x");
  const auto folder = Open(/*read_only=*/true);
  const auto refused = StatusIs(absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(folder->Begin("photos", "y").status(), refused);
  EXPECT_THAT(folder->Delete("photos", "x"), refused);
  EXPECT_EQ(ValueOrDie(folder->List("")).size(), 1U);
}

}  // namespace
}  // namespace quern
