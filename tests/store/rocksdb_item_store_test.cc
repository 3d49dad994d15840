#include "engine/store/rocksdb_item_store.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/write_batch.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/unprivileged.h"

namespace quern {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kDimension = 3;
constexpr int kThreads = 8;
constexpr int kPuts = 10;  // Of each thread.
constexpr ItemParts kWhole = {
    .payload = true, .embedding = true, .parts = true, .media = true};

Item MakeItem(const std::string& id) {
  return Item{.id = id,
              .payload = absl::StrCat("payload of ", id),
              .embedding = {1, 2, static_cast<float>(id.size())},
              .parts = absl::StrCat("parts of ", id),
              .create_time = absl::FromUnixSeconds(1),
              .update_time = absl::FromUnixSeconds(2)};
}

class RocksdbItemStoreTest : public testing::Test {
 protected:
  RocksdbItemStoreTest()
      : files_(std::make_shared<FaultyFileSystem>()),
        env_(rocksdb::NewCompositeEnv(files_)),
        options_{.path = directory_.File("store"),
                 .dimension = kDimension,
                 .env = env_.get()} {}

  std::unique_ptr<RocksdbItemStore> Open() const {
    return ValueOrDie(RocksdbItemStore::Open(options_));
  }

  // Leaves a store with the items "a" and "b" behind, all of it in sorted
  // files.
  void WriteStore() const {
    ASSERT_THAT(Open()->Put({MakeItem("a"), MakeItem("b")}), IsOk());
    Open();  // Replays the log into sorted files.
  }

  // Puts a record behind the store's back.
  void WriteRecord(const std::string& family, const std::string& key,
                   const std::string& value) const {
    WithFamily(
        family, [&](rocksdb::DB& db, rocksdb::ColumnFamilyHandle* handle) {
          EXPECT_TRUE(db.Put(rocksdb::WriteOptions(), handle, key, value).ok());
        });
  }

  std::string ReadRecord(const std::string& family,
                         const std::string& key) const {
    std::string value;
    WithFamily(
        family, [&](rocksdb::DB& db, rocksdb::ColumnFamilyHandle* handle) {
          EXPECT_TRUE(db.Get(rocksdb::ReadOptions(), handle, key, &value).ok());
        });
    return value;
  }

  void WithFamily(
      const std::string& family,
      absl::FunctionRef<void(rocksdb::DB&, rocksdb::ColumnFamilyHandle*)> use)
      const {
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "items", "payloads", "vectors", "parts",
                             "changes", "expiries", "media"}) {
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), options_.path, families,
                                  &handles, &opened)
                    .ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      if (handle->GetName() == family) use(*db, handle);
      db->DestroyColumnFamilyHandle(handle);
    }
  }

  // After WriteStore().
  void ExpectOnlyRead() const {
    const auto store = Open();
    EXPECT_TRUE(Has(*store, "a"));
    EXPECT_EQ(store->count(), 2);
    const auto refused = StatusIs(
        absl::StatusCode::kFailedPrecondition,
        AllOf(HasSubstr(options_.path), HasSubstr("ermission denied")));
    EXPECT_THAT(store->write_status(), refused);
    EXPECT_THAT(store->Put({MakeItem("c")}), refused);
  }

  static bool Has(const ItemStore& store, const std::string& id) {
    return ValueOrDie(store.Get({id}, kWhole))[0].has_value();
  }

  TemporaryDirectory directory_;
  const std::shared_ptr<FaultyFileSystem> files_;
  const std::unique_ptr<rocksdb::Env> env_;
  RocksdbItemStoreOptions options_;
};

TEST_F(RocksdbItemStoreTest, RefusesOptionsOutOfRange) {
  options_.dimension = 0;
  const absl::Status dimension = RocksdbItemStore::Open(options_).status();
  EXPECT_THAT(dimension, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(GetField(dimension), "dimension");
  options_.dimension = kDimension;
  options_.write_buffer_bytes = 1000;
  const absl::Status buffer = RocksdbItemStore::Open(options_).status();
  EXPECT_THAT(buffer, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(GetField(buffer), "write_buffer_bytes");
}

TEST_F(RocksdbItemStoreTest, RefusesAnotherDimensionAndNamesBoth) {
  WriteStore();
  options_.dimension = 512;
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("dimension 3"), HasSubstr("512"),
                             HasSubstr(options_.path))));
}

TEST_F(RocksdbItemStoreTest, RefusesANewerFormat) {
  WriteStore();
  WriteRecord("default", "format_version", "5");
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("newer version"), HasSubstr("\"5\""))));
}

// Format 3 is this one with vectors as they lie in memory.
TEST_F(RocksdbItemStoreTest, ReadsAndUpgradesAStoreOfFormat3) {
  options_.dimension = 64;
  std::vector<float> first(64);
  std::iota(first.begin(), first.end(), -31.5F);
  Item item = MakeItem("a");
  item.embedding = first;
  {
    const auto store = Open();
    ASSERT_THAT(store->Put({item}), IsOk());
  }
  const std::string plain(reinterpret_cast<const char*>(first.data()),
                          first.size() * sizeof(float));
  EXPECT_LT(ReadRecord("vectors", "a").size(), plain.size());
  WriteRecord("vectors", "a", plain);
  WriteRecord("default", "format_version", "3");
  RocksdbItemStoreOptions read_only = options_;
  read_only.read_only = "a reason";
  EXPECT_EQ(
      ValueOrDie(
          ValueOrDie(RocksdbItemStore::Open(read_only))->Get({"a"}, kWhole))[0]
          ->embedding,
      first);
  EXPECT_EQ(ReadRecord("default", "format_version"), "3");
  {
    const auto store = Open();
    EXPECT_EQ(ValueOrDie(store->Get({"a"}, kWhole))[0]->embedding, first);
    ASSERT_THAT(store->Put({item}), IsOk());
    EXPECT_EQ(ValueOrDie(store->Get({"a"}, kWhole))[0]->embedding, first);
  }
  EXPECT_EQ(ReadRecord("default", "format_version"), "4");
  EXPECT_LT(ReadRecord("vectors", "a").size(), plain.size());
}

// Format 2 is that one without media.
TEST_F(RocksdbItemStoreTest, ReadsAndUpgradesAStoreOfFormat2) {
  WriteStore();
  WriteRecord("default", "format_version", "2");
  {
    rocksdb::DB* opened = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "items", "payloads", "vectors", "parts",
                             "changes", "expiries", "media"}) {
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), options_.path, families,
                                  &handles, &opened)
                    .ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    ASSERT_TRUE(db->DropColumnFamily(handles.back()).ok());
    for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle);
  }
  RocksdbItemStoreOptions read_only = options_;
  read_only.read_only = "a reason";
  std::vector<Item> before;
  const auto collect = [](const ItemStore& store) {
    std::vector<Item> items;
    EXPECT_THAT(store.Scan("", kWhole,
                           [&](Item item) {
                             items.push_back(std::move(item));
                             return true;
                           }),
                IsOk());
    return items;
  };
  {
    // As a replica opens a snapshot of an older server.
    const auto store = ValueOrDie(RocksdbItemStore::Open(read_only));
    before = collect(*store);
    ASSERT_FALSE(before.empty());
  }
  const auto store = Open();
  const std::vector<Item> after = collect(*store);
  ASSERT_EQ(after.size(), before.size());
  EXPECT_EQ(after[0].sequence, before[0].sequence);
  Item item = before[0];
  item.media = "kept";
  ASSERT_THAT(store->Put({item}), IsOk());
  EXPECT_EQ(ValueOrDie(store->Get({item.id}, kWhole))[0]->media, "kept");
}

TEST_F(RocksdbItemStoreTest, RefusesAFormatWithMoreKindsOfRecords) {
  WriteStore();
  {
    rocksdb::DB* opened = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "items", "payloads", "vectors", "parts",
                             "changes", "expiries", "media", "dense"}) {
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    rocksdb::DBOptions options;
    options.create_missing_column_families = true;
    ASSERT_TRUE(
        rocksdb::DB::Open(options, options_.path, families, &handles, &opened)
            .ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle);
  }
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("newer version"), HasSubstr("dense"))));
}

// What format 1 wrote, byte by byte.
TEST_F(RocksdbItemStoreTest, UpgradesAStoreOfFormat1) {
  const std::string header = absl::HexStringToBytes(
      "02000000"
      "0100000000000000"
      "0200000000000000"
      "01000000"
      "75");
  {
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "items", "payloads", "vectors"}) {
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    rocksdb::DBOptions options;
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    ASSERT_TRUE(
        rocksdb::DB::Open(options, options_.path, families, &handles, &opened)
            .ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    rocksdb::WriteBatch batch;
    batch.Put(handles[0], "format_version", "1");
    batch.Put(handles[0], "dimension", "3");
    batch.Put(handles[0], "item_count", std::string("\1\0\0\0\0\0\0\0", 8));
    batch.Put(handles[1], "old", header);
    batch.Put(handles[2], "old", "payload");
    batch.Put(handles[3], "old",
              absl::HexStringToBytes("0000803f"
                                     "00000040"
                                     "000000c0"));
    ASSERT_TRUE(db->Write(rocksdb::WriteOptions(), &batch).ok());
    for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle);
  }
  for (int round = 0; round < 2; ++round) {
    const auto store = Open();
    const Item old = ValueOrDie(store->Get({"old"}, kWhole))[0].value();
    EXPECT_EQ(old.modality, 2);
    EXPECT_EQ(old.create_time, absl::FromUnixNanos(1));
    EXPECT_EQ(old.update_time, absl::FromUnixNanos(2));
    EXPECT_EQ(old.media_uri, "u");
    EXPECT_EQ(old.payload, "payload");
    EXPECT_THAT(old.embedding, ElementsAre(1, 2, -2));
    EXPECT_FALSE(old.expire_time.has_value());
    EXPECT_EQ(old.parts, "");
    EXPECT_EQ(store->count(), 1);
    // An index that knew nothing of the log is too old for it.
    EXPECT_GT(store->trimmed_sequence(), 0u);
    EXPECT_EQ(store->last_sequence(), store->trimmed_sequence());
  }
  const auto store = Open();
  const uint64_t before = store->last_sequence();
  Item item = MakeItem("old");
  item.if_sequence = 0;
  const auto results = ValueOrDie(store->Put({item}));
  EXPECT_THAT(results[0].status, IsOk());
  EXPECT_FALSE(results[0].created);
  EXPECT_GT(results[0].sequence, before);
  EXPECT_EQ(ValueOrDie(store->Get({"old"}, kWhole))[0]->parts, item.parts);
  EXPECT_EQ(ValueOrDie(store->Delete({"old"})), 1);
  EXPECT_EQ(store->count(), 0);
}

TEST_F(RocksdbItemStoreTest, DamagedRecordsAreDataLossAndNameTheItem) {
  const std::string header_without_uri("\1\0\0\0", 4);
  const std::vector<std::pair<std::string, std::string>> damages = {
      {"vectors", "short"}, {"items", header_without_uri}, {"items", ""}};
  WriteStore();
  for (const auto& [family, value] : damages) {
    WriteRecord(family, "b", value);
    const auto store = Open();
    const auto names_the_item =
        StatusIs(absl::StatusCode::kDataLoss,
                 AllOf(HasSubstr("\"b\""), HasSubstr(family)));
    EXPECT_THAT(store->Get({"a", "b"}, kWhole), names_the_item);
    EXPECT_THAT(store->Scan("", kWhole, [](const Item&) { return true; }),
                names_the_item);
    EXPECT_TRUE(Has(*store, "a"));
  }
}

TEST_F(RocksdbItemStoreTest, AnItemWithoutItsVectorIsDataLoss) {
  WriteStore();
  WriteRecord("items", "c", std::string(24, '\0'));
  const auto store = Open();
  EXPECT_THAT(store->Get({"c"}, kWhole),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("\"c\"")));
  EXPECT_THAT(store->Scan("", kWhole, [](const Item&) { return true; }),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("\"c\"")));
}

TEST_F(RocksdbItemStoreTest, DamagedFilesAreDataLoss) {
  WriteStore();
  for (const auto& entry : std::filesystem::directory_iterator(options_.path)) {
    if (entry.path().extension() != ".sst") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out);
    file.seekp(4);
    file << "damage";
  }
  absl::StatusOr<std::unique_ptr<RocksdbItemStore>> store =
      RocksdbItemStore::Open(options_);
  EXPECT_THAT(
      store.ok() ? (*store)->Get({"a"}, kWhole).status() : store.status(),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr(options_.path)));
}

TEST_F(RocksdbItemStoreTest, AfterADamagedBlockItReadsTheRestAndRefusesWrites) {
  {
    const auto store = Open();
    // Two blocks of a file at least: only the first is damaged.
    for (const char* id : {"a", "b"}) {
      Item item = MakeItem(id);
      std::mt19937 random(1);
      item.payload.resize(50'000);
      for (char& byte : item.payload) byte = static_cast<char>(random());
      ASSERT_THAT(store->Put({item}), IsOk());
    }
  }
  Open();  // Replays the log into sorted files.
  for (const auto& entry : std::filesystem::directory_iterator(options_.path)) {
    if (entry.path().extension() != ".sst" || entry.file_size() < 90'000) {
      continue;
    }
    std::fstream file(entry.path(), std::ios::in | std::ios::out);
    file.seekp(1000);
    file << "damage";
  }
  const auto store = Open();
  ASSERT_THAT(store->write_status(), IsOk());
  const auto is_damaged =
      StatusIs(absl::StatusCode::kDataLoss,
               AllOf(HasSubstr("damaged"), HasSubstr(options_.path)));
  EXPECT_THAT(store->Get({"a"}, kWhole), is_damaged);
  EXPECT_THAT(store->write_status(), is_damaged);
  EXPECT_THAT(store->Put({MakeItem("c")}), is_damaged);
  EXPECT_THAT(store->Delete({"a"}), is_damaged);
  EXPECT_TRUE(Has(*store, "b"));
  EXPECT_TRUE(ValueOrDie(store->Get({"a"}, {.payload = false}))[0].has_value());
}

TEST_F(RocksdbItemStoreTest, MissingFilesAreDataLoss) {
  WriteStore();
  for (const auto& entry : std::filesystem::directory_iterator(options_.path)) {
    if (entry.path().extension() == ".sst") {
      std::filesystem::remove(entry.path());
    }
  }
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(options_.path)));
}

TEST_F(RocksdbItemStoreTest, OpenInThisProcessIsInUse) {
  const auto store = Open();
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("in use by another server"),
                             HasSubstr(options_.path))));
  EXPECT_THAT(store->Put({MakeItem("a")}), IsOk());
}

TEST_F(RocksdbItemStoreTest, OpenInAnotherProcessIsInUse) {
  WriteStore();
  const std::string lock_path = options_.path + "/LOCK";
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    struct flock whole_file {};
    whole_file.l_type = F_WRLCK;
    const int file = ::open(lock_path.c_str(), O_RDWR);
    const char locked = ::fcntl(file, F_SETLK, &whole_file) == 0 ? 'y' : 'n';
    if (::write(pipe_ends[1], &locked, 1) == 1) ::pause();
    ::_exit(0);
  }
  char locked = 'n';
  ASSERT_EQ(::read(pipe_ends[0], &locked, 1), 1);
  ASSERT_EQ(locked, 'y');

  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("in use by another server")));

  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  EXPECT_TRUE(Has(*Open(), "a"));
}

TEST_F(RocksdbItemStoreTest, AFileInTheFoldersPlaceIsRefused) {
  ASSERT_THAT(WriteFileAtomically(options_.path, "text"), IsOk());
  EXPECT_THAT(
      RocksdbItemStore::Open(options_),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr(options_.path), HasSubstr("not a folder"))));
}

TEST_F(RocksdbItemStoreTest, AFolderThatIsNotWritableIsRead) {
  WriteStore();
  // The path above it may be entered, the folder read and not written to.
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(options_.path.c_str(), 0555), 0);
  const Unprivileged unprivileged;
  if (!unprivileged.ok()) GTEST_SKIP() << "root cannot give up its rights";
  ExpectOnlyRead();
}

TEST_F(RocksdbItemStoreTest, FilesThatAreNotWritableAreRead) {
  WriteStore();
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(options_.path.c_str(), 0777), 0);
  ASSERT_EQ(::chmod((options_.path + "/LOCK").c_str(), 0444), 0);
  const Unprivileged unprivileged;
  if (!unprivileged.ok()) GTEST_SKIP() << "root cannot give up its rights";
  ExpectOnlyRead();
}

TEST_F(RocksdbItemStoreTest, AFullDiskRefusesWritesUntilThereIsRoom) {
  auto store = Open();
  ASSERT_THAT(store->Put({MakeItem("before")}), IsOk());

  files_->set_fault(FaultyFileSystem::kDiskFull);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(store->Put({MakeItem("during"), MakeItem("during2")}),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         HasSubstr("the disk is full")));
    EXPECT_THAT(store->Delete({"before"}),
                StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(store->write_status(),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         HasSubstr("the disk is full")));
  }
  EXPECT_TRUE(Has(*store, "before"));
  EXPECT_FALSE(Has(*store, "during"));
  EXPECT_EQ(store->count(), 1);

  files_->set_fault(FaultyFileSystem::kNone);
  ASSERT_THAT(store->Put({MakeItem("after")}), IsOk());
  EXPECT_THAT(store->write_status(), IsOk());
  EXPECT_EQ(store->count(), 2);
  store = nullptr;
  store = Open();
  EXPECT_TRUE(Has(*store, "before"));
  EXPECT_FALSE(Has(*store, "during"));
  EXPECT_TRUE(Has(*store, "after"));
  EXPECT_EQ(store->count(), 2);
}

TEST_F(RocksdbItemStoreTest, ADiskMayFillUpAgainAndAgain) {
  options_.write_buffer_bytes = 64 << 10;  // So that flushes meet it too.
  auto store = Open();
  int64_t kept = 0;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 20; ++i) {
      Item item = MakeItem(absl::StrCat(kept++));
      item.payload.assign(10'000, 'x');
      ASSERT_THAT(store->Put({item}), IsOk()) << item.id;
    }
    files_->set_fault(FaultyFileSystem::kDiskFull);
    for (int i = 0; i < 5; ++i) {
      EXPECT_THAT(store->Put({MakeItem("refused")}),
                  StatusIs(absl::StatusCode::kResourceExhausted));
    }
    EXPECT_EQ(store->count(), kept);
    files_->set_fault(FaultyFileSystem::kNone);
  }
  ASSERT_THAT(store->Delete({"0"}), IsOk());
  for (int i = 1; i < kept; ++i) EXPECT_TRUE(Has(*store, absl::StrCat(i))) << i;
  EXPECT_FALSE(Has(*store, "refused"));
}

TEST_F(RocksdbItemStoreTest, AfterAFullDiskAWriteDoesNotWaitForAReaderForever) {
  auto store = Open();
  ASSERT_THAT(store->Put({MakeItem("before")}), IsOk());
  files_->set_fault(FaultyFileSystem::kDiskFull);
  EXPECT_THAT(store->Put({MakeItem("during")}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  files_->set_fault(FaultyFileSystem::kNone);
  EXPECT_THAT(store->Scan("", {},
                          [&](const Item& /*item*/) {
                            EXPECT_THAT(
                                store->Put({MakeItem("within")}),
                                StatusIs(absl::StatusCode::kResourceExhausted,
                                         HasSubstr("readers")));
                            EXPECT_TRUE(Has(*store, "before"));
                            return false;
                          }),
              IsOk());
  EXPECT_THAT(store->Put({MakeItem("after")}), IsOk());
}

TEST_F(RocksdbItemStoreTest, OpeningOnAFullDiskSaysSo) {
  files_->set_fault(FaultyFileSystem::kDiskFull);
  EXPECT_THAT(RocksdbItemStore::Open(options_),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("the disk is full")));
}

TEST_F(RocksdbItemStoreTest, OpenedOnAFullDiskItReadsUntilThereIsRoom) {
  ASSERT_THAT(Open()->Put({MakeItem("sorted")}), IsOk());
  ASSERT_THAT(Open()->Put({MakeItem("logged")}), IsOk());
  files_->set_fault(FaultyFileSystem::kDiskFull);
  const auto store = Open();
  EXPECT_TRUE(Has(*store, "sorted"));
  EXPECT_TRUE(Has(*store, "logged"));
  EXPECT_EQ(store->count(), 2);
  for (int i = 0; i < 2; ++i) {
    const auto is_full = StatusIs(absl::StatusCode::kResourceExhausted,
                                  HasSubstr("the disk is full"));
    EXPECT_THAT(store->write_status(), is_full);
    EXPECT_THAT(store->Put({MakeItem("during")}), is_full);
  }
  files_->set_fault(FaultyFileSystem::kNone);
  EXPECT_THAT(store->Put({MakeItem("after")}), IsOk());
  EXPECT_THAT(store->write_status(), IsOk());
  EXPECT_TRUE(Has(*store, "logged"));
  EXPECT_FALSE(Has(*store, "during"));
  EXPECT_EQ(store->count(), 3);
  // RocksDB's own log would end the process, see DatabaseOptions().
  EXPECT_FALSE(std::filesystem::exists(options_.path + "/LOG"));
}

TEST_F(RocksdbItemStoreTest, OpenedOnABrokenDiskItReads) {
  ASSERT_THAT(Open()->Put({MakeItem("before")}), IsOk());
  files_->set_fault(FaultyFileSystem::kBroken);
  const auto store = Open();
  files_->set_fault(FaultyFileSystem::kNone);
  EXPECT_TRUE(Has(*store, "before"));
  EXPECT_THAT(store->Put({MakeItem("after")}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(store->write_status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr(options_.path)));
}

TEST_F(RocksdbItemStoreTest, AfterAnIoErrorItReadsAndRefusesWrites) {
  auto store = Open();
  ASSERT_THAT(store->Put({MakeItem("before")}), IsOk());

  files_->set_fault(FaultyFileSystem::kBroken);
  const auto is_read_only =
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("read-only"));
  EXPECT_THAT(store->Put({MakeItem("during")}), is_read_only);
  files_->set_fault(FaultyFileSystem::kNone);
  EXPECT_THAT(store->Put({MakeItem("after")}), is_read_only);
  EXPECT_THAT(store->Delete({"before"}), is_read_only);
  EXPECT_THAT(store->Update("before", [](Item&) { return absl::OkStatus(); }),
              is_read_only);
  EXPECT_THAT(store->TrimChanges(store->last_sequence()), is_read_only);
  EXPECT_THAT(store->write_status(), is_read_only);
  EXPECT_TRUE(Has(*store, "before"));
  EXPECT_EQ(store->count(), 1);

  store = nullptr;
  store = Open();
  EXPECT_TRUE(Has(*store, "before"));
  EXPECT_FALSE(Has(*store, "after"));
  EXPECT_THAT(store->Put({MakeItem("after")}), IsOk());
}

TEST_F(RocksdbItemStoreTest, APowerCutLosesNothingThatWasAcknowledged) {
  const auto store = Open();
  for (int i = 0; i < 20; ++i) {
    const std::string id = absl::StrCat("item", i);
    ASSERT_THAT(store->Put({MakeItem(id), MakeItem(id + "b")}), IsOk());
    if (i % 5 == 3) {
      ASSERT_EQ(ValueOrDie(store->Delete({id})), 1);
    }

    RocksdbItemStoreOptions copy = options_;
    copy.path = directory_.File(absl::StrCat("copy", i));
    copy.env = nullptr;
    files_->CopyAfterPowerCut(options_.path, copy.path);
    const auto survivor = ValueOrDie(RocksdbItemStore::Open(copy));
    EXPECT_EQ(survivor->count(), store->count());
    EXPECT_EQ(Has(*survivor, id), i % 5 != 3);
    EXPECT_TRUE(Has(*survivor, id + "b"));
  }
}

TEST_F(RocksdbItemStoreTest, WritersAtTheSameTimeShareSyncs) {
  const auto store = Open();
  files_->set_sync_delay(absl::Milliseconds(2));
  const int64_t before = files_->log_syncs();
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&store, t] {
      for (int i = 0; i < kPuts; ++i) {
        EXPECT_THAT(store->Put({MakeItem(absl::StrCat(t, "-", i))}), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(files_->log_syncs() - before, kThreads * kPuts / 2);
  EXPECT_EQ(store->count(), kThreads * kPuts);
}

TEST_F(RocksdbItemStoreTest, SyncModeNeverDoesNotSync) {
  options_.sync = SyncMode::kNever;
  const auto store = Open();
  const int64_t before = files_->log_syncs();
  ASSERT_THAT(store->Put({MakeItem("a")}), IsOk());
  EXPECT_EQ(files_->log_syncs(), before);
}

TEST_F(RocksdbItemStoreTest, ACopyOnAFullDiskIsRefusedAndLeavesNothing) {
  const auto store = Open();
  ASSERT_THAT(store->Put({MakeItem("a")}), IsOk());
  const std::string copy = directory_.File("copy");
  files_->set_fault(FaultyFileSystem::kDiskFull);
  EXPECT_THAT(store->Checkpoint(copy),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("disk is full")));
  files_->set_fault(FaultyFileSystem::kNone);
  std::vector<std::string> left;
  for (const auto& entry :
       std::filesystem::directory_iterator(directory_.path())) {
    left.push_back(entry.path().filename());
  }
  EXPECT_THAT(left, testing::ElementsAre("store"));
  EXPECT_THAT(store->Put({MakeItem("b")}), IsOk());
  EXPECT_THAT(store->Checkpoint(copy), IsOk());
}

TEST_F(RocksdbItemStoreTest, OpenForReadingOnlyChangesNothing) {
  std::unique_ptr<RocksdbItemStore> store = Open();
  ASSERT_THAT(store->Put({MakeItem("sorted")}), IsOk());
  store = nullptr;
  store = Open();
  ASSERT_THAT(store->Put({MakeItem("logged")}), IsOk());
  RocksdbItemStoreOptions copy = options_;
  copy.path = directory_.File("copy");
  copy.env = nullptr;
  copy.read_only = "a reason";
  ASSERT_THAT(store->Checkpoint(copy.path), IsOk());
  const auto files = [&copy] {
    std::map<std::string, std::string> contents;
    for (const auto& entry : std::filesystem::directory_iterator(copy.path)) {
      contents[entry.path()] = ValueOrDie(ReadFile(entry.path()));
    }
    return contents;
  };
  const auto before = files();
  {
    const auto reader = ValueOrDie(RocksdbItemStore::Open(copy));
    const auto another = ValueOrDie(RocksdbItemStore::Open(copy));
    EXPECT_EQ(reader->count(), 2);
    EXPECT_TRUE(Has(*reader, "sorted"));
    EXPECT_TRUE(Has(*another, "logged"));
    const auto refused =
        StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("a reason"));
    EXPECT_THAT(reader->Put({MakeItem("x")}), refused);
    EXPECT_THAT(reader->Delete({"sorted"}), refused);
  }
  EXPECT_EQ(files(), before);
  // Nor does it make a store where there is none.
  copy.path = directory_.File("nothing");
  EXPECT_FALSE(RocksdbItemStore::Open(copy).ok());
  EXPECT_FALSE(std::filesystem::exists(copy.path));
}

TEST_F(RocksdbItemStoreTest, SyncModeIntervalSyncsLater) {
  options_.sync = SyncMode::kInterval;
  options_.sync_interval = absl::ZeroDuration();
  EXPECT_EQ(GetField(RocksdbItemStore::Open(options_).status()),
            "sync_interval");
  options_.sync_interval = absl::Milliseconds(1);
  const auto store = Open();
  const int64_t before = files_->log_syncs();
  ASSERT_THAT(store->Put({MakeItem("a")}), IsOk());
  while (files_->log_syncs() == before) absl::SleepFor(absl::Milliseconds(1));
  RocksdbItemStoreOptions copy = options_;
  copy.path = directory_.File("copy");
  copy.env = nullptr;
  files_->CopyAfterPowerCut(options_.path, copy.path);
  EXPECT_TRUE(Has(*ValueOrDie(RocksdbItemStore::Open(copy)), "a"));
}

TEST_F(RocksdbItemStoreTest, AnIntervalsSyncThatFailsEndsTheWrites) {
  options_.sync = SyncMode::kInterval;
  options_.sync_interval = absl::Milliseconds(1);
  const auto store = Open();
  files_->FailCall(FaultyFileSystem::Site::kSync, 1, FaultyFileSystem::kBroken);
  ASSERT_THAT(store->Put({MakeItem("a")}), IsOk());
  while (store->write_status().ok()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(
      store->Put({MakeItem("b")}),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("read-only")));
  EXPECT_TRUE(Has(*store, "a"));
}

TEST_F(RocksdbItemStoreTest, StoresShareABlockCache) {
  options_.block_cache = CreateBlockCache(1 << 20);
  WriteStore();
  const size_t before = options_.block_cache->GetUsage();
  const auto store = Open();
  EXPECT_TRUE(Has(*store, "a"));
  EXPECT_GT(options_.block_cache->GetUsage(), before);
}

}  // namespace
}  // namespace quern
