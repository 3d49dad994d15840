// Fails one system call after another of those that restore, import and delete
// snapshots, and put a collection in another one's place. Whatever fails says
// what and where; after a restart there is the state of before or that of
// after, whole, and nothing that was acknowledged lacks, nor what was written
// since.

#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

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

namespace fs = std::filesystem;
using Site = FaultySystemCalls::Site;

constexpr int kDimension = 3;
constexpr int kItems = 6;
constexpr int kMaxCalls = 300;

struct Case {
  std::string name;
  Site site;
  int error;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

using Ids = std::set<std::string>;

// A data folder that is open.
struct Opened {
  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<Snapshots> snapshots;
};

class CopyErrorTest : public testing::TestWithParam<Case> {
 protected:
  // A collection "c" with a snapshot "s" that has all of its items.
  void SetUp() override {
    path_ = base_;
    const Opened opened = Open();
    const auto collection =
        ValueOrDie(opened.catalog->Create(Record("c", kDimension)));
    for (int i = 0; i < kItems; ++i) {
      const std::string id = absl::StrCat(i);
      ASSERT_THAT(
          collection->Upsert({MakeItem(id, {1, static_cast<float>(i), 2})}),
          IsOk());
      items_.insert(id);
    }
    ASSERT_THAT(collection->mutable_index().Optimize(context_, [](float) {}),
                IsOk());
    ASSERT_THAT(opened.snapshots->Create(context_, "c", "s"), IsOk());
    const auto reader = ValueOrDie(opened.snapshots->Export("c", "s"));
    while (auto piece = ValueOrDie(reader->Next())) {
      tar_.push_back(*std::move(piece));
    }
  }

  Opened Open() {
    Opened opened;
    opened.catalog = ValueOrDie(Catalog::Open(
        {.path = path_, .factories = RocksdbFactories(), .clock = &clock_}));
    opened.snapshots = ValueOrDie(
        Snapshots::Open({.path = path_ + "/snapshots", .clock = &clock_},
                        RocksdbFactories(), opened.catalog.get()));
    return opened;
  }

  // Does `work` in a copy of the folder, with one call after another failing,
  // until none does; then `check` is told whether it was acknowledged, before
  // and after a restart.
  void FailEach(
      const std::function<absl::Status(const Opened&)>& work,
      const std::function<void(const Opened&, bool acknowledged)>& check) {
    int met = 0;
    bool got_through = false;
    for (int nth = 1; nth < kMaxCalls && !got_through; ++nth) {
      SCOPED_TRACE(absl::StrCat("call ", nth));
      path_ = directory_.File(absl::StrCat(nth));
      fs::copy(base_, path_, fs::copy_options::recursive);
      bool acknowledged = false;
      {
        const Opened opened = Open();
        FaultySystemCalls::FailCall(GetParam().site, nth, GetParam().error);
        const absl::Status status = work(opened);
        got_through = FaultySystemCalls::is_waiting();
        FaultySystemCalls::Heal();
        Expect(status);
        acknowledged = status.ok();
        EXPECT_TRUE(acknowledged || !got_through) << status;
        check(opened, acknowledged);
      }
      for (int start = 0; start < 2; ++start) check(Open(), acknowledged);
      if (HasFailure()) return;
      fs::remove_all(path_);
      if (!got_through) ++met;
    }
    EXPECT_TRUE(got_through);
    RecordProperty("calls_failed", met);
  }

  // An error that users see names a file and what the system said.
  void Expect(const absl::Status& status) {
    if (status.ok()) return;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("cannot "));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(path_));
    if (GetParam().error == ENOSPC) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
    }
  }

  // By list and by search; null: there is no such collection.
  std::optional<Ids> Found(const Opened& opened, const std::string& name) {
    const auto collection = opened.catalog->Get(name);
    if (absl::IsNotFound(collection.status())) return std::nullopt;
    Ids stored;
    EXPECT_THAT(collection, IsOk());
    EXPECT_THAT((*collection)
                    ->store()
                    .Scan("", {},
                          [&stored](const Item& item) {
                            stored.insert(item.id);
                            return true;
                          }),
                IsOk());
    const std::vector<float> query = {1, 1, 1};
    const auto hits = ValueOrDie(
        (*collection)
            ->index()
            .Search(context_,
                    {.data = query.data(), .rows = 1, .columns = kDimension},
                    {.k = 100}));
    Ids searched;
    for (const ScoredId& hit : hits[0]) searched.insert(hit.id);
    EXPECT_EQ(searched, stored);
    return stored;
  }

  // Whole, or not there at all, which what was acknowledged is not.
  void ExpectMade(const Opened& opened, const std::string& name,
                  bool acknowledged) {
    const std::optional<Ids> found = Found(opened, name);
    if (found.has_value()) {
      EXPECT_EQ(*found, items_);
    } else {
      EXPECT_FALSE(acknowledged);
    }
  }

  // A snapshot is not there, or can be restored.
  void ExpectSnapshot(const Opened& opened, const std::string& name,
                      bool acknowledged) {
    const auto restored =
        opened.snapshots->Restore(context_, "c", name, "copy");
    if (absl::IsNotFound(restored.status()) && !acknowledged) return;
    ASSERT_THAT(restored, IsOk());
    EXPECT_EQ(Found(opened, "copy"), items_);
    EXPECT_THAT(opened.catalog->Delete("copy"), IsOk());
  }

  RealClock clock_;
  const RequestContext context_{&clock_, "test"};
  TemporaryDirectory directory_;
  const std::string base_ = directory_.File("base");
  std::string path_;
  Ids items_;
  std::vector<std::string> tar_;
};

TEST_P(CopyErrorTest, Restore) {
  FailEach(
      [&](const Opened& opened) {
        return opened.snapshots->Restore(context_, "c", "s", "restored")
            .status();
      },
      [&](const Opened& opened, bool acknowledged) {
        ExpectMade(opened, "restored", acknowledged);
        ExpectMade(opened, "c", true);
        ExpectSnapshot(opened, "s", true);
      });
}

TEST_P(CopyErrorTest, Import) {
  FailEach(
      [&](const Opened& opened) {
        size_t next = 0;
        return opened.snapshots
            ->Import(context_, "c", "t",
                     [&]() -> absl::StatusOr<std::optional<std::string>> {
                       if (next == tar_.size()) return std::nullopt;
                       return tar_[next++];
                     })
            .status();
      },
      [&](const Opened& opened, bool acknowledged) {
        ExpectSnapshot(opened, "t", acknowledged);
        ExpectSnapshot(opened, "s", true);
      });
}

TEST_P(CopyErrorTest, DeleteSnapshot) {
  FailEach(
      [&](const Opened& opened) { return opened.snapshots->Delete("c", "s"); },
      [&](const Opened& opened, bool acknowledged) {
        if (acknowledged) {
          EXPECT_TRUE(ValueOrDie(opened.snapshots->List("")).empty());
        } else {
          ExpectSnapshot(opened, "s", false);
        }
        ExpectMade(opened, "c", true);
      });
}

TEST_P(CopyErrorTest, DeleteCollection) {
  FailEach(
      [&](const Opened& opened) {
        absl::Status status = opened.catalog->Delete("c").status();
        if (!status.ok()) {
          // It is still there for those who go on writing.
          EXPECT_THAT(ValueOrDie(opened.catalog->Get("c"))
                          ->Upsert({MakeItem("after", {3, 2, 1})}),
                      IsOk());
        }
        return status;
      },
      [&](const Opened& opened, bool acknowledged) {
        const std::optional<Ids> found = Found(opened, "c");
        EXPECT_EQ(found.has_value(), !acknowledged);
        Ids expected = items_;
        expected.insert("after");
        EXPECT_EQ(found.value_or(expected), expected);
        ExpectSnapshot(opened, "s", true);
      });
}

// What is written once the call has come back is there later, too, whichever of
// the two has it.
TEST_P(CopyErrorTest, Replace) {
  FailEach(
      [&](const Opened& opened) -> absl::Status {
        const auto old = ValueOrDie(opened.catalog->Get("c"));
        absl::Status status;
        {
          auto shadow = opened.catalog->CreateShadow(Record("c", kDimension));
          status = shadow.status();
          if (status.ok()) {
            for (const std::string& id : items_) {
              EXPECT_THAT((*shadow)->Upsert({MakeItem(id, {1, 2, 3})}), IsOk());
            }
            EXPECT_THAT((*shadow)->Upsert({MakeItem("new", {1, 2, 3})}),
                        IsOk());
            status = opened.catalog->Replace(old, *shadow,
                                             [] { return absl::OkStatus(); });
            if (!status.ok()) (*shadow)->Drop();
          }
        }
        EXPECT_THAT(ValueOrDie(opened.catalog->Get("c"))
                        ->Upsert({MakeItem("after", {3, 2, 1})}),
                    IsOk());
        return status;
      },
      [&](const Opened& opened, bool acknowledged) {
        const std::optional<Ids> found = Found(opened, "c");
        ASSERT_TRUE(found.has_value());
        Ids expected = items_;
        expected.insert("after");
        if (acknowledged) expected.insert("new");
        EXPECT_EQ(*found, expected);
      });
}

INSTANTIATE_TEST_SUITE_P(
    Sites, CopyErrorTest,
    testing::Values(Case{"OpenRefused", Site::kOpen, EACCES},
                    Case{"WriteBroken", Site::kWrite, EIO},
                    Case{"WriteFull", Site::kWrite, ENOSPC},
                    Case{"FsyncBroken", Site::kFsync, EIO},
                    Case{"RenameBroken", Site::kRename, EIO},
                    Case{"RenameFolderBroken", Site::kRenameFolder, EIO},
                    // As on a file system that cannot promise it.
                    Case{"RenameFolderPlain", Site::kRenameFolder, EINVAL},
                    Case{"LinkFull", Site::kLink, ENOSPC},
                    // As on a file system without links.
                    Case{"LinkRefused", Site::kLink, EPERM},
                    Case{"UnlinkBroken", Site::kUnlink, EIO},
                    Case{"MkdirFull", Site::kMkdir, ENOSPC}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quern
