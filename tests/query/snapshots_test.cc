#include "engine/query/snapshots.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/mount.h>

#include "engine/index/index_files.h"
#include "engine/snapshot/snapshot_files.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/snapshot/snapshot_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::map<std::string, Item> ItemsOf(const Collection& collection) {
  std::map<std::string, Item> items;
  EXPECT_THAT(collection.store().Scan("", {.payload = true, .embedding = true},
                                      [&items](Item item) {
                                        const std::string id = item.id;
                                        items[id] = std::move(item);
                                        return true;
                                      }),
              IsOk());
  return items;
}

void ExpectEqual(const Item& actual, const Item& expected) {
  EXPECT_EQ(actual.payload, expected.payload) << expected.id;
  EXPECT_EQ(actual.embedding, expected.embedding) << expected.id;
  EXPECT_EQ(actual.modality, expected.modality) << expected.id;
  EXPECT_EQ(actual.media_uri, expected.media_uri) << expected.id;
  EXPECT_EQ(actual.create_time, expected.create_time) << expected.id;
  EXPECT_EQ(actual.update_time, expected.update_time) << expected.id;
}

// Different for each number.
Item NumberedItem(int number) {
  Item item = MakeItem(absl::StrCat("item", number),
                       {static_cast<float>(number + 1), 1, -0.25F});
  item.payload = std::string(static_cast<size_t>(number % 500), 'p') +
                 absl::StrCat(number);
  item.modality = number % 3;
  item.media_uri = absl::StrCat("file:///", number);
  item.create_time = absl::FromUnixNanos(1'700'000'000'000'000'001 + number);
  item.update_time = item.create_time + absl::Nanoseconds(7);
  return item;
}

// A data folder of its own: a catalog and its snapshots, as in a server.
struct Site {
  explicit Site(const std::string& path, const Clock* clock)
      : catalog(ValueOrDie(Catalog::Open({.path = path,
                                          .max_collections = 10,
                                          .factories = RocksdbFactories(),
                                          .clock = clock}))),
        snapshots(ValueOrDie(
            Snapshots::Open({.path = path + "/snapshots", .clock = clock},
                            RocksdbFactories(), catalog.get()))) {}

  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<Snapshots> snapshots;
};

class SnapshotsTest : public ::testing::Test {
 protected:
  // A collection of `count` items.
  std::shared_ptr<Collection> Make(Site& site, const std::string& name,
                                   int count) {
    v1::Collection record = Record(name, 3);
    record.set_model("gone");
    record.set_model_fingerprint("f00d");
    record.set_description("as it was");
    auto collection = ValueOrDie(site.catalog->Create(record));
    for (int i = 0; i < count; ++i) {
      EXPECT_THAT(collection->Upsert({NumberedItem(i)}), IsOk());
    }
    return collection;
  }

  std::string TarOf(const Site& site, const std::string& name) {
    const auto source = ValueOrDie(site.snapshots->Export("photos", name));
    std::string tar;
    while (true) {
      const auto piece = ValueOrDie(source->Next());
      if (!piece.has_value()) return tar;
      tar += *piece;
    }
  }

  absl::StatusOr<SnapshotInfo> Import(Site& site, const std::string& tar) {
    size_t at = 0;
    return site.snapshots->Import(
        context_, "photos", "imported",
        [&]() -> absl::StatusOr<std::optional<std::string>> {
          if (at == tar.size()) return std::nullopt;
          std::string piece = tar.substr(at, 1 << 20);
          at += piece.size();
          return piece;
        });
  }

  std::string SnapshotPath(const std::string& name) const {
    return directory_.File("data/snapshots/photos/" + name);
  }

  // Collections' folders in the data folder.
  size_t Folders() const {
    return ValueOrDie(ListFolders(directory_.File("data/collections"))).size();
  }

  const RealClock clock_;
  RequestContext context_{&clock_, "test"};
  TemporaryDirectory directory_;
  Site site_{directory_.File("data"), &clock_};
};

TEST_F(SnapshotsTest, ARestoredCollectionEqualsTheOneThatWas) {
  auto photos = Make(site_, "photos", 400);
  EXPECT_THAT(photos->Delete({"item7"}), IsOk());
  const auto before = ItemsOf(*photos);
  const SnapshotInfo made =
      ValueOrDie(site_.snapshots->Create(context_, "photos", "s"));
  EXPECT_EQ(made.item_count, 399);
  EXPECT_EQ(made.model_fingerprint, "f00d");
  EXPECT_GT(made.size_bytes, 399 * 3 * 4);
  EXPECT_THAT(photos->Upsert({NumberedItem(7), NumberedItem(1000)}), IsOk());
  EXPECT_THAT(photos->Delete({"item8"}), IsOk());

  // Nobody has loaded its model.
  const v1::Collection restored =
      ValueOrDie(site_.snapshots->Restore(context_, "photos", "s", "again"));
  EXPECT_EQ(restored.name(), "again");
  EXPECT_EQ(restored.description(), "as it was");
  EXPECT_EQ(restored.model_fingerprint(), "f00d");
  EXPECT_EQ(restored.status().item_count(), 399);
  auto again = ValueOrDie(site_.catalog->Get("again"));
  const auto after = ItemsOf(*again);
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [id, item] : before) ExpectEqual(after.at(id), item);

  // It is a collection like any other, and the snapshot stays as it was.
  EXPECT_THAT(again->Upsert({NumberedItem(2000)}), IsOk());
  EXPECT_THAT(again->Delete({"item1"}), IsOk());
  again = nullptr;
  EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "third"),
              IsOk());
  EXPECT_EQ(ItemsOf(*ValueOrDie(site_.catalog->Get("third"))).size(), 399U);
}

// One writer; each write is a batch that must be there whole or not at all.
TEST_F(SnapshotsTest, UnderWritesItHoldsWhatWasAcknowledgedAndNoHalves) {
  const auto photos = Make(site_, "photos", 0);
  std::atomic<int> acknowledged = 0;
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; i += 2) {
      EXPECT_THAT(photos->Upsert({NumberedItem(i), NumberedItem(i + 1)}),
                  IsOk());
      acknowledged = i + 2;
    }
  });
  std::vector<int> before;
  for (int round = 0; round < 4; ++round) {
    while (acknowledged < 100 * (round + 1)) std::this_thread::yield();
    before.push_back(acknowledged);
    EXPECT_THAT(
        site_.snapshots->Create(context_, "photos", absl::StrCat("s", round)),
        IsOk());
  }
  stop = true;
  writer.join();
  const auto all = ItemsOf(*photos);
  for (int round = 0; round < 4; ++round) {
    const std::string name = absl::StrCat("s", round);
    const v1::Collection restored =
        ValueOrDie(site_.snapshots->Restore(context_, "photos", name, name));
    const auto items = ItemsOf(*ValueOrDie(site_.catalog->Get(name)));
    EXPECT_EQ(static_cast<size_t>(restored.status().item_count()),
              items.size());
    EXPECT_GE(static_cast<int>(items.size()), before[round]);
    EXPECT_EQ(items.size() % 2, 0U);
    // A prefix of what was written.
    for (size_t i = 0; i < items.size(); ++i) {
      const std::string id = absl::StrCat("item", i);
      ASSERT_TRUE(items.contains(id)) << id;
      ExpectEqual(items.at(id), all.at(id));
    }
  }
}

TEST_F(SnapshotsTest, OutlivesItsCollectionAndARestart) {
  Make(site_, "photos", 5);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  ASSERT_THAT(site_.catalog->Delete("photos"), IsOk());
  EXPECT_EQ(Folders(), 0U);
  site_.snapshots = nullptr;
  site_.catalog = nullptr;
  site_ = Site(directory_.File("data"), &clock_);
  ASSERT_THAT(site_.snapshots->Restore(context_, "photos", "s", "photos"),
              IsOk());
  EXPECT_EQ(ItemsOf(*ValueOrDie(site_.catalog->Get("photos"))).size(), 5U);
}

TEST_F(SnapshotsTest, NamesThatAreTakenOrUnknown) {
  Make(site_, "photos", 1);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  const auto taken = StatusIs(absl::StatusCode::kAlreadyExists);
  const auto unknown = StatusIs(absl::StatusCode::kNotFound);
  const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(site_.snapshots->Create(context_, "photos", "s"), taken);
  EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "photos"),
              taken);
  EXPECT_THAT(site_.snapshots->Create(context_, "nothing", "s"), unknown);
  EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "t", "new"),
              unknown);
  EXPECT_THAT(site_.snapshots->Export("photos", "t").status(), unknown);
  EXPECT_THAT(site_.snapshots->Delete("photos", "t"), unknown);
  EXPECT_THAT(site_.snapshots->Create(context_, "photos", "../s"), invalid);
  EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "../new"),
              invalid);
  EXPECT_THAT(site_.snapshots->Restore(context_, "..", "s", "new"), invalid);
  EXPECT_EQ(Folders(), 1U);
}

TEST_F(SnapshotsTest, ATamperedFileIsNamedAndNothingIsRestored) {
  Make(site_, "photos", 50);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  const auto files = ReadTree(SnapshotPath("s"));
  ASSERT_GT(files.size(), 4U);
  for (const auto& [path, contents] : files) {
    const std::string file = SnapshotPath("s") + "/" + path;
    const auto damaged = StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path));
    fs::remove(file);
    if (path != "snapshot.json") {
      EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "new"),
                  damaged);
    }
    std::string changed = contents.empty() ? "x" : contents;
    changed[changed.size() / 2] ^= 0x01;
    WriteFile(file, changed);
    EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "new"),
                damaged);
    fs::remove(file);
    WriteFile(file, contents);
  }
  EXPECT_EQ(Folders(), 1U);
  EXPECT_THAT(site_.snapshots->Restore(context_, "photos", "s", "new"), IsOk());
}

TEST_F(SnapshotsTest, ATarMovesASnapshotToAnotherSiteByteForByte) {
  const auto photos = Make(site_, "photos", 300);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  const std::string tar = TarOf(site_, "s");
  Site other(directory_.File("other"), &clock_);
  const SnapshotInfo imported = ValueOrDie(Import(other, tar));
  EXPECT_EQ(imported.name, "imported");
  EXPECT_EQ(imported.collection, "photos");
  EXPECT_EQ(imported.item_count, 300);
  EXPECT_EQ(TarOf(other, "imported"), tar);
  ASSERT_THAT(
      other.snapshots->Restore(context_, "photos", "imported", "photos"),
      IsOk());
  const auto before = ItemsOf(*photos);
  const auto after = ItemsOf(*ValueOrDie(other.catalog->Get("photos")));
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [id, item] : before) ExpectEqual(after.at(id), item);
  // Once more under the same name.
  EXPECT_THAT(Import(other, tar).status(),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(SnapshotsTest, ABadTarLeavesNothing) {
  Make(site_, "photos", 100);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  const std::string tar = TarOf(site_, "s");
  ASSERT_THAT(site_.snapshots->Delete("photos", "s"), IsOk());
  std::string changed = tar;
  const size_t item = tar.find("item42");
  ASSERT_NE(item, std::string::npos);
  changed[item] ^= 0x01;
  for (const std::string& bad :
       {tar.substr(0, tar.size() / 2), changed, std::string("nonsense")}) {
    EXPECT_THAT(Import(site_, bad).status(),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(fs::is_empty(directory_.File("data/snapshots")));
  }
}

// Checksums fit, but there is no store in it.
TEST_F(SnapshotsTest, ATarWithoutAStoreIsRefused) {
  TemporaryDirectory made_up;
  WriteSnapshot(made_up.path(),
                {{"collection.json", R"({"name":"x","dimension":3})"},
                 {"items/CURRENT", "MANIFEST-000001\n"}});
  const auto reader = ValueOrDie(ArchiveReader::Open(made_up.path()));
  EXPECT_THAT(site_.snapshots->Import(context_, "photos", "imported",
                                      [&] { return reader->Next(); }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not an intact snapshot")));
  WriteSnapshot(made_up.path(), {{"collection.json", "{"}});
  const auto no_record = ValueOrDie(ArchiveReader::Open(made_up.path()));
  EXPECT_THAT(site_.snapshots->Import(context_, "photos", "imported",
                                      [&] { return no_record->Next(); }),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(fs::is_empty(directory_.File("data/snapshots")));
}

TEST_F(SnapshotsTest, ACancelledCallLeavesNothing) {
  Make(site_, "photos", 100);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  RequestContext cancelled(&clock_, "test");
  cancelled.Cancel();
  const auto gone = StatusIs(absl::StatusCode::kCancelled);
  EXPECT_THAT(site_.snapshots->Create(cancelled, "photos", "t"), gone);
  EXPECT_THAT(site_.snapshots->Restore(cancelled, "photos", "s", "new"), gone);
  EXPECT_EQ(Folders(), 1U);
  EXPECT_THAT(ValueOrDie(ListFolders(directory_.File("data/snapshots/photos"))),
              testing::ElementsAre("s"));
}

// The index writes files that never change, and replaces its manifest.
TEST_F(SnapshotsTest, TheFilesOfTheIndexComeAlong) {
  const auto photos = Make(site_, "photos", 3);
  const auto save = [this, &photos] {
    return photos->mutable_index().Optimize(context_,
                                            [](float /*progress*/) {});
  };
  ASSERT_THAT(save(), IsOk());
  const auto files = ReadTree(photos->directory() + "/index");
  EXPECT_GT(files.size(), 1U);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  ASSERT_THAT(photos->Upsert({NumberedItem(3)}), IsOk());
  ASSERT_THAT(save(), IsOk());
  EXPECT_NE(ReadTree(photos->directory() + "/index"), files);
  ASSERT_THAT(site_.snapshots->Restore(context_, "photos", "s", "new"), IsOk());
  const auto restored = ValueOrDie(site_.catalog->Get("new"));
  EXPECT_EQ(ReadTree(restored->directory() + "/index"), files);
  EXPECT_EQ(restored->index().size(), 3);
}

// A save of the index lets the store forget the changes that it has: the copies
// of both must be from before one, or both from after it.
TEST_F(SnapshotsTest, TheIndexOfASnapshotIsNeverTooOldForItsStore) {
  const auto photos = Make(site_, "photos", 3);
  std::atomic<bool> stop = false;
  std::thread saver([&] {
    for (int i = 3; !stop; ++i) {
      ASSERT_THAT(photos->Upsert({NumberedItem(i % 50)}), IsOk());
      ASSERT_THAT(
          photos->mutable_index().Optimize(context_, [](float /*progress*/) {}),
          IsOk());
    }
  });
  for (int i = 0; i < 20; ++i) {
    const std::string name = absl::StrCat("s", i);
    ASSERT_THAT(site_.snapshots->Create(context_, "photos", name), IsOk());
    const auto store = ValueOrDie(
        RocksdbItemStore::Open({.path = SnapshotPath(name) + "/items",
                                .dimension = 3,
                                .read_only = "it is a snapshot"}));
    if (store->trimmed_sequence() == 0) continue;  // Before the first save.
    const IndexManifest manifest =
        ValueOrDie(ReadManifest(SnapshotPath(name) + "/index"));
    EXPECT_GE(manifest.sequence, store->trimmed_sequence()) << name;
    EXPECT_LE(manifest.sequence, store->last_sequence()) << name;
  }
  stop = true;
  saver.join();
}

TEST_F(SnapshotsTest, SortedFilesAreLinkedNotCopied) {
  const auto photos = Make(site_, "photos", 2000);
  ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  int linked = 0;
  for (const auto& entry : fs::directory_iterator(SnapshotPath("s/items"))) {
    // Those that a compaction has replaced since are the snapshot's alone.
    if (entry.path().extension() == ".sst" && entry.hard_link_count() == 2) {
      ++linked;
    }
  }
  EXPECT_GT(linked, 0);
}

// A file system of a few megabytes.
TEST_F(SnapshotsTest, AFullDiskIsSaidAndLeavesNothing) {
  TemporaryDirectory mount_point;
  if (mount("tmpfs", mount_point.path().c_str(), "tmpfs", 0, "size=3m") != 0) {
    GTEST_SKIP() << "cannot mount a small file system: " << strerror(errno);
  }
  const absl::Cleanup unmount = [&mount_point] {
    umount2(mount_point.path().c_str(), MNT_DETACH);
  };
  {
    // What cannot be compressed.
    auto photos = Make(site_, "photos", 0);
    std::vector<Item> items;
    for (int i = 0; i < 400; ++i) {
      Item item = NumberedItem(i);
      item.payload = Sha256Hex(item.id);
      for (int j = 0; j < 7; ++j) item.payload += Sha256Hex(item.payload);
      item.payload += item.payload + item.payload + item.payload;
      items.push_back(std::move(item));
    }
    ASSERT_THAT(photos->Upsert(items), IsOk());
    ASSERT_THAT(site_.snapshots->Create(context_, "photos", "s"), IsOk());
  }
  const std::string tar = TarOf(site_, "s");
  Site small(mount_point.path(), &clock_);
  const std::string fill = mount_point.File("fill");
  WriteFile(fill, std::string((2 << 20) + (512 << 10), 'f'));
  EXPECT_THAT(Import(small, tar).status(),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(fs::is_empty(mount_point.File("snapshots")));
  fs::remove(fill);
  ASSERT_THAT(Import(small, tar), IsOk());
  WriteFile(fill, std::string(ValueOrDie(FreeBytes(mount_point.path())), 'f'));
  EXPECT_THAT(
      small.snapshots->Restore(context_, "photos", "imported", "photos"),
      StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(ValueOrDie(ListFolders(mount_point.File("collections"))),
              IsEmpty());
  fs::remove(fill);
  EXPECT_THAT(
      small.snapshots->Restore(context_, "photos", "imported", "photos"),
      IsOk());
  small.snapshots = nullptr;
  small.catalog = nullptr;
}

}  // namespace
}  // namespace quern
