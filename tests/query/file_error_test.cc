// Fails one system call after another of those that write files beside the
// store: collection records, index files, snapshots. Whatever fails says what
// and where, the items are untouched, and after a restart everything that was
// acknowledged is there and no index needs to be made again.
//
// tests/store/io_error_test.cc does the same to the store.

#include <cerrno>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/query/catalog.h"
#include "engine/query/snapshots.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/support/faulty_system_calls.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using Site = FaultySystemCalls::Site;

constexpr int kDimension = 3;
constexpr int kItemsPerStep = 5;
constexpr int kSteps = 2;
constexpr int kMaxCalls = 500;

struct Case {
  std::string name;
  Site site;
  int error;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

// What one run was told.
struct Acknowledged {
  bool created = false;
  std::set<std::string> items;
  std::set<std::string> descriptions = {""};      // That the record may have.
  std::optional<std::set<std::string>> snapshot;  // Its items.
  bool deleted = false;                           // The collection "gone".
  bool made = false;                              // It had been made.
};

class FileErrorTest : public testing::TestWithParam<Case> {
 protected:
  // An error that users see names a file and what the system said.
  void Expect(const absl::Status& status) {
    if (status.ok()) return;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("cannot "));
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(directory_.path()));
    EXPECT_NE(GetParam().error, EXDEV) << status;  // A copy does as well.
    if (GetParam().error == ENOSPC) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
    }
  }

  std::unique_ptr<Catalog> OpenCatalog(absl::Status* status) {
    auto opened = Catalog::Open(
        {.path = path_, .factories = RocksdbFactories(), .clock = &clock_});
    *status = opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }

  std::unique_ptr<Snapshots> OpenSnapshots(Catalog* catalog,
                                           absl::Status* status) {
    auto opened =
        Snapshots::Open({.path = path_ + "/snapshots", .clock = &clock_},
                        RocksdbFactories(), catalog);
    *status = opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }

  absl::Status Describe(Catalog& catalog, const std::string& description) {
    return catalog
        .Update("c",
                [&](v1::Collection& record) {
                  record.set_description(description);
                  return absl::OkStatus();
                })
        .status();
  }

  // Items, then a save of the index, then a change of the record.
  void WriteStep(Catalog& catalog, Collection& collection, int step) {
    for (int i = 0; i < kItemsPerStep; ++i) {
      const std::string id = absl::StrCat(step, "-", i);
      // The calls that fail are not the store's.
      ASSERT_THAT(
          collection.Upsert({MakeItem(id, {1, static_cast<float>(i), 2})}),
          IsOk());
      acknowledged_.items.insert(id);
    }
    Expect(collection.mutable_index().Optimize(context_, [](float) {}));
    ExpectWhole(collection);
    const std::string description = absl::StrCat("step ", step);
    const absl::Status described = Describe(catalog, description);
    Expect(described);
    if (described.ok()) acknowledged_.descriptions.clear();
    acknowledged_.descriptions.insert(description);
  }

  // Everything that was acknowledged is found, by list and by search.
  void ExpectWhole(const Collection& collection) {
    std::set<std::string> stored;
    EXPECT_THAT(collection.store().Scan("", {},
                                        [&stored](const Item& item) {
                                          stored.insert(item.id);
                                          return true;
                                        }),
                IsOk());
    EXPECT_EQ(stored, acknowledged_.items);
    EXPECT_EQ(SearchedIds(collection), acknowledged_.items);
    EXPECT_FALSE(collection.index().incomplete());
  }

  std::set<std::string> SearchedIds(const Collection& collection) {
    const std::vector<float> query = {1, 1, 1};
    const auto hits = ValueOrDie(collection.index().Search(
        context_, {.data = query.data(), .rows = 1, .columns = kDimension},
        {.k = 100}));
    std::set<std::string> ids;
    for (const ScoredId& hit : hits[0]) ids.insert(hit.id);
    return ids;
  }

  void Run() {
    acknowledged_ = {};
    absl::Status status;
    const auto catalog = OpenCatalog(&status);
    Expect(status);
    if (catalog == nullptr) return;
    const auto snapshots = OpenSnapshots(catalog.get(), &status);
    Expect(status);
    const auto created = catalog->Create(Record("c", kDimension));
    Expect(created.status());
    acknowledged_.created = created.ok();
    acknowledged_.made = catalog->Create(Record("gone", kDimension)).ok();
    const absl::Status deleted = catalog->Delete("gone").status();
    acknowledged_.deleted = deleted.ok();
    if (!created.ok()) return;
    for (int step = 0; step < kSteps; ++step) {
      WriteStep(*catalog, **created, step);
    }
    if (snapshots == nullptr) return;
    const absl::Status made = snapshots->Create(context_, "c", "s").status();
    Expect(made);
    if (made.ok()) acknowledged_.snapshot = acknowledged_.items;
  }

  void CheckAfter() {
    absl::Status status;
    const auto catalog = OpenCatalog(&status);
    ASSERT_THAT(status, IsOk());
    const auto snapshots = OpenSnapshots(catalog.get(), &status);
    ASSERT_THAT(status, IsOk());
    if (acknowledged_.made && acknowledged_.deleted) {
      EXPECT_THAT(catalog->Describe("gone").status(),
                  StatusIs(absl::StatusCode::kNotFound));
    }
    auto collection = catalog->Get("c");
    if (!acknowledged_.created && absl::IsNotFound(collection.status())) {
      // Not half there: the name is free.
      collection = catalog->Create(Record("c", kDimension));
    }
    ASSERT_THAT(collection, IsOk());
    ExpectWhole(**collection);
    const v1::Collection described = (*collection)->Describe();
    EXPECT_TRUE(acknowledged_.descriptions.contains(described.description()))
        << described.description();
    EXPECT_EQ(described.status().state(), v1::CollectionStatus::STATE_READY);
    EXPECT_THAT((*collection)->mutable_index().Optimize(context_, [](float) {}),
                IsOk());
    CheckSnapshot(*catalog, *snapshots);
  }

  void CheckSnapshot(Catalog& catalog, Snapshots& snapshots) {
    const auto restored = snapshots.Restore(context_, "c", "s", "copy");
    if (!acknowledged_.snapshot.has_value()) {
      // One whose last sync failed may be there, whole.
      if (absl::IsNotFound(restored.status())) return;
    }
    ASSERT_THAT(restored, IsOk());
    const auto copy = ValueOrDie(catalog.Get("copy"));
    EXPECT_EQ(SearchedIds(*copy), acknowledged_.items);
  }

  const RealClock clock_;
  const RequestContext context_{&clock_, "test"};
  TemporaryDirectory directory_;
  std::string path_;
  Acknowledged acknowledged_;
};

TEST_P(FileErrorTest, NothingAcknowledgedIsLostWhicheverCallFails) {
  int met = 0;
  for (int nth = 1; nth < kMaxCalls; ++nth) {
    SCOPED_TRACE(absl::StrCat("call ", nth));
    path_ = directory_.File(absl::StrCat(nth));
    FaultySystemCalls::FailCall(GetParam().site, nth, GetParam().error);
    Run();
    const bool got_through = FaultySystemCalls::is_waiting();
    FaultySystemCalls::Heal();
    CheckAfter();
    std::filesystem::remove_all(path_);
    if (HasFailure() || got_through) break;
    ++met;
  }
  EXPECT_GT(met, 0);
  RecordProperty("calls_failed", met);
}

INSTANTIATE_TEST_SUITE_P(
    Sites, FileErrorTest,
    testing::Values(Case{"OpenRefused", Site::kOpen, EACCES},
                    Case{"WriteBroken", Site::kWrite, EIO},
                    Case{"WriteFull", Site::kWrite, ENOSPC},
                    Case{"ShortWrite", Site::kShortWrite, ENOSPC},
                    Case{"FsyncBroken", Site::kFsync, EIO},
                    Case{"RenameBroken", Site::kRename, EIO},
                    Case{"RenameFolderBroken", Site::kRenameFolder, EIO},
                    Case{"LinkBroken", Site::kLink, EIO},
                    Case{"LinkFull", Site::kLink, ENOSPC},
                    // As on a file system without links, and between two.
                    Case{"LinkRefused", Site::kLink, EPERM},
                    Case{"LinkElsewhere", Site::kLink, EXDEV},
                    Case{"UnlinkBroken", Site::kUnlink, EIO},
                    Case{"MkdirFull", Site::kMkdir, ENOSPC}),
    [](const auto& info) { return info.param.name; });

// Half a write is no error: the rest follows.
TEST(PartialWriteTest, GoesOn) {
  TemporaryDirectory directory;
  const std::string path = directory.File("file");
  const std::string contents(10'000, 'x');
  FaultySystemCalls::FailCall(Site::kPartialWrite, 1, 0);
  EXPECT_THAT(WriteFileAtomically(path, contents), IsOk());
  EXPECT_FALSE(FaultySystemCalls::is_waiting());
  FaultySystemCalls::Heal();
  EXPECT_EQ(ValueOrDie(ReadFile(path)), contents);
}

}  // namespace
}  // namespace quern
