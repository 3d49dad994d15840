#include "engine/store/rocksdb_item_store.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/iterator.h"
#include "rocksdb/listener.h"
#include "rocksdb/merge_operator.h"
#include "rocksdb/options.h"
#include "rocksdb/snapshot.h"
#include "rocksdb/table.h"
#include "rocksdb/utilities/checkpoint.h"
#include "rocksdb/write_batch.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/store/expiry.h"
#include "engine/store/id_locks.h"
#include "engine/store/item_record.h"
#include "engine/store/log_syncs.h"
#include "engine/store/rocksdb_status.h"
#include "engine/store/sequence_numbers.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "RocksDB";

constexpr int64_t kMinWriteBufferBytes = 64 << 10;
constexpr int64_t kDefaultBlockCacheBytes = 8 << 20;
constexpr double kBloomBitsPerId = 10;
constexpr size_t kScanReadaheadBytes = 2 << 20;
// Records of VisitParts(), which are held in memory meanwhile.
constexpr size_t kVisitedAtOnce = 64;

// Written to find out whether a disk that was full has room.
constexpr size_t kProbeBytes = 1 << 20;
// How long a store that was full waits for its readers to let it be opened
// again.
constexpr absl::Duration kReopenTimeout = absl::Seconds(1);

// The column families, one per kind of record. README.md has the layout.
enum Family {
  kMeta,
  kItems,
  kPayloads,
  kVectors,
  kParts,
  kChanges,
  kExpiries,
  kMedia,
  kFamilies
};
// Whose keys are ids.
constexpr Family kItemFamilies[] = {kItems, kPayloads, kVectors, kParts,
                                    kMedia};
const std::array<std::string, kFamilies> kFamilyNames = {
    rocksdb::kDefaultColumnFamilyName,
    "items",
    "payloads",
    "vectors",
    "parts",
    "changes",
    "expiries",
    "media"};

// Keys of the family kMeta.
constexpr absl::string_view kFormatVersionKey = "format_version";
constexpr absl::string_view kDimensionKey = "dimension";
constexpr absl::string_view kCountKey = "item_count";
constexpr absl::string_view kTrimmedKey = "trimmed_sequence";

// The change log of a store that was upgraded from format 1 begins here: what
// was written before it is in no log.
constexpr uint64_t kUpgradeSequence = 1;

rocksdb::Slice ToSlice(absl::string_view text) {
  return {text.data(), text.size()};
}

absl::string_view ToView(const rocksdb::Slice& slice) {
  return {slice.data(), slice.size()};
}

// Adds changes to the number of items. It lets each write carry its change
// without reading the record, so that writers need not take turns.
class CountMergeOperator final : public rocksdb::AssociativeMergeOperator {
 public:
  const char* Name() const override { return "quern.count"; }

  bool Merge(const rocksdb::Slice& /*key*/, const rocksdb::Slice* existing,
             const rocksdb::Slice& change, std::string* result,
             rocksdb::Logger* /*logger*/) const override {
    absl::StatusOr<int64_t> sum = DecodeCount(ToView(change));
    if (!sum.ok()) return false;
    if (existing != nullptr) {
      absl::StatusOr<int64_t> before = DecodeCount(ToView(*existing));
      if (!before.ok()) return false;
      *sum += *before;
    }
    *result = EncodeCount(*sum);
    return true;
  }
};

// Why a store takes no more writes. Thread-safe.
class Refusal {
 public:
  // Remembers the first error after which a write cannot succeed.
  void Record(const absl::Status& status) {
    const bool lasts = absl::IsResourceExhausted(status) ||
                       absl::IsFailedPrecondition(status) ||
                       absl::IsDataLoss(status);
    if (!lasts) return;
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }

  absl::Status status() const {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// Hears of failed flushes and compactions. RocksDB's own recovery from a full
// disk tries at once, and when the disk is full still it gives up for good:
// facebook/rocksdb issues 11643 and 12998.
class FailureListener final : public rocksdb::EventListener {
 public:
  FailureListener(std::string path, std::shared_ptr<Refusal> refusal)
      : path_(std::move(path)), refusal_(std::move(refusal)) {}

  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/,
                         rocksdb::Status* error) override {
    refusal_->Record(FromWrite(*error, path_));
  }

  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/,
                            rocksdb::Status /*error*/,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }

 private:
  const std::string path_;
  const std::shared_ptr<Refusal> refusal_;
};

// Without one RocksDB writes a log into the store's folder, and its second line
// that finds the disk full ends the process (an assertion in Debian's library).
class NoLog final : public rocksdb::Logger {
 public:
  using Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

rocksdb::DBOptions DatabaseOptions(const RocksdbItemStoreOptions& options) {
  rocksdb::DBOptions database;
  database.create_if_missing = true;
  database.create_missing_column_families = true;
  database.db_write_buffer_size = options.write_buffer_bytes;
  database.max_total_wal_size = 2 * options.write_buffer_bytes;
  database.max_background_jobs = 2;
  database.info_log = std::make_shared<NoLog>();
  if (options.env != nullptr) database.env = options.env;
  return database;
}

rocksdb::ColumnFamilyOptions FamilyOptions(
    Family family, const RocksdbItemStoreOptions& options) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = options.block_cache;
  table.cache_index_and_filter_blocks = true;
  table.metadata_cache_options.unpartitioned_pinning =
      rocksdb::PinningTier::kAll;
  if (std::find(std::begin(kItemFamilies), std::end(kItemFamilies), family) !=
      std::end(kItemFamilies)) {
    // An id may be in each file of the first level, or, of an upsert, new.
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerId));
  }
  rocksdb::ColumnFamilyOptions result;
  result.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  // Who looks these up knows of the item: the last level has it, at the latest.
  result.optimize_filters_for_hits = family == kVectors || family == kPayloads;
  result.write_buffer_size = options.write_buffer_bytes;
  // Numbers of embeddings and of features do not compress, nor does media.
  result.compression =
      family == kVectors || family == kParts || family == kMedia
          ? rocksdb::kNoCompression
          : rocksdb::kLZ4Compression;
  if (family == kMeta) {
    result.merge_operator = std::make_shared<CountMergeOperator>();
  }
  return result;
}

absl::Status CheckOptions(const RocksdbItemStoreOptions& options) {
  if (options.dimension < 1) {
    return InvalidField("dimension", absl::StrCat("is ", options.dimension,
                                                  "; it must be at least 1"));
  }
  if (options.write_buffer_bytes < kMinWriteBufferBytes) {
    return InvalidField(
        "write_buffer_bytes",
        absl::StrCat("is ", options.write_buffer_bytes,
                     "; it must be at least ", kMinWriteBufferBytes));
  }
  if (options.sync == SyncMode::kInterval &&
      options.sync_interval <= absl::ZeroDuration()) {
    return InvalidField(
        "sync_interval",
        absl::StrCat("is ", absl::FormatDuration(options.sync_interval),
                     "; it must be above 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckMediaUri(const Item& item) {
  if (item.media_uri.size() > std::numeric_limits<uint32_t>::max()) {
    return InvalidField("media_uri",
                        absl::StrCat("has ", item.media_uri.size(),
                                     " bytes; it must have less than 2^32"));
  }
  return absl::OkStatus();
}

absl::Status CheckItem(const Item& item, int64_t dimension) {
  QUERN_RETURN_IF_ERROR(CheckIdSize(item.id));
  if (static_cast<int64_t>(item.embedding.size()) != dimension) {
    return InvalidField(
        "embedding",
        absl::StrCat("has ", item.embedding.size(),
                     " values; the collection's dimension is ", dimension));
  }
  return CheckMediaUri(item);
}

absl::Status CheckItems(absl::Span<const Item> items, int64_t dimension) {
  for (size_t i = 0; i < items.size(); ++i) {
    QUERN_RETURN_IF_ERROR(InField(CheckItem(items[i], dimension),
                                  absl::StrCat("items[", i, "]")));
  }
  return absl::OkStatus();
}

std::vector<absl::string_view> Distinct(std::vector<absl::string_view> result) {
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

absl::Status NewerFormat(absl::string_view path, absl::string_view evidence) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the store at ", path, " was written by a newer version of Quern (",
      evidence, "; this version reads format ", kStoreFormatVersion,
      "): run that version, or restore a snapshot of this one"));
}

absl::Status DamagedItem(absl::string_view path, absl::string_view id,
                         absl::string_view what) {
  return absl::DataLossError(absl::StrCat(
      "the store at ", path, " is damaged: item ", Quoted(id), ": ", what));
}

}  // namespace

// RocksDB's handles and what is done with them.
class RocksdbItemStore::Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(
      const RocksdbItemStoreOptions& options);
  ~Database();

  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  absl::StatusOr<std::vector<PutResult>> Put(absl::Span<const Item> items);
  absl::StatusOr<Item> Update(const std::string& id,
                              const std::function<absl::Status(Item&)>& change);
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids);
  absl::StatusOr<std::vector<std::string>> RemoveExpired(int64_t limit);
  absl::StatusOr<std::vector<std::string>> ListExpired(const Expiry::View& view,
                                                       std::string* place,
                                                       int64_t limit) const;
  absl::StatusOr<std::vector<std::string>> ListExpired(std::string* place,
                                                       int64_t limit) const {
    return ListExpired(expiry_.Look(last_sequence()), place, limit);
  }
  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const;
  absl::Status GetEmbeddings(
      absl::Span<const std::string> ids,
      const std::function<void(size_t, absl::Span<const float>)>& visit) const;
  absl::Status VisitParts(
      absl::Span<const std::string> ids,
      const std::function<bool(size_t, absl::string_view)>& visit) const;
  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const;
  absl::Status ScanChanges(
      uint64_t after,
      const std::function<bool(uint64_t, absl::string_view)>& visit) const;
  absl::Status Import(absl::Span<const Item> items,
                      absl::Span<const std::string> removed, uint64_t sequence);
  absl::Status TrimChanges(uint64_t up_to);
  uint64_t last_sequence() const { return numbers_->last(); }
  uint64_t trimmed_sequence() const { return trimmed_; }
  absl::Status write_status() const { return refusal_->status(); }
  // Refuses writes from now on.
  void Refuse(const absl::Status& why) { refusal_->Record(why); }
  absl::Status Checkpoint(const std::string& directory) const;
  int64_t count() const { return count_.load(std::memory_order_relaxed); }
  int64_t disk_bytes() const;

  // The disk is full; every write will fail.
  bool disk_full() const {
    return absl::IsResourceExhausted(refusal_->status());
  }

 private:
  // What a lookup brought for one id: no value means that there is none.
  using Values = std::vector<std::optional<rocksdb::PinnableSlice>>;

  // A stored item as a write finds it.
  struct Known {
    std::optional<Item> item;  // Null: no records.
    bool exists = false;       // It has records and has not expired.
  };

  explicit Database(const RocksdbItemStoreOptions& options)
      : path_(options.path),
        dimension_(options.dimension),
        sync_(options.sync == SyncMode::kEveryWrite),
        expiry_(options.clock == nullptr ? &system_clock_ : options.clock) {}

  // Steps of Open(). The first returns the names of the families that a store
  // has; it has none before it is made.
  absl::StatusOr<std::vector<std::string>> CheckFamilies(
      const RocksdbItemStoreOptions& options) const;
  absl::Status OpenFamilies(const RocksdbItemStoreOptions& options,
                            absl::Span<const std::string> names);
  absl::Status ReadOrCreateMeta(bool read_only);
  absl::Status CreateMeta();
  absl::Status ReadMeta(absl::string_view format_version, bool read_only);
  absl::Status Upgrade(int64_t version);
  absl::Status ReadSequences();
  absl::Status ReadFirstExpiry();
  absl::StatusOr<std::string> ReadMetaValue(absl::string_view key) const;
  absl::StatusOr<int64_t> ReadMetaNumber(absl::string_view key) const;

  // `ids` are distinct and held.
  absl::StatusOr<std::vector<Known>> Find(
      absl::Span<const absl::string_view> ids) const;
  // `known` is what is stored now.
  absl::Status AddToBatch(const Item& item, absl::Time create_time,
                          uint64_t sequence, const Known& known,
                          rocksdb::WriteBatch& batch) const;
  absl::Status AddHeaderToBatch(const Item& item, absl::Time create_time,
                                uint64_t sequence, const Known& known,
                                rocksdb::WriteBatch& batch) const;
  // Of a record that few items have: no bytes, no record.
  absl::Status AddOptionalToBatch(Family family, const std::string& id,
                                  const std::string& bytes, const Known& known,
                                  rocksdb::WriteBatch& batch) const;
  // `item` is what is stored now; `sequence` is that of its removal.
  absl::Status AddRemovalToBatch(absl::string_view id, const Item& item,
                                 uint64_t sequence,
                                 rocksdb::WriteBatch& batch) const;
  // Removes the items of held `ids` for which `is_wanted`, and returns how many
  // of them had not expired; `removed` gets the ids of all.
  absl::StatusOr<int64_t> Remove(
      absl::Span<const absl::string_view> ids,
      const std::function<bool(const Item&)>& is_wanted,
      std::vector<std::string>* removed);
  // What became of a write or a sync, of which RocksDB says `status`.
  absl::Status AfterSync(const rocksdb::Status& status) const;
  // Every write. Errors: those of FromWrite().
  absl::Status WriteBatch(const rocksdb::WriteOptions& options,
                          rocksdb::WriteBatch& batch);
  // Writes `batch` and the change of the number of records, as one.
  absl::Status Write(rocksdb::WriteBatch& batch, int64_t count_change);
  absl::Status Write(rocksdb::WriteBatch& batch, int64_t count_change,
                     SequenceNumbers::Block& numbers);

  // Calls `visit` with each record that there is, in the order of the ids.
  absl::Status VisitRecords(
      const rocksdb::ReadOptions& options, Family family,
      absl::Span<const absl::string_view> ids,
      absl::FunctionRef<absl::Status(size_t, rocksdb::PinnableSlice&)> visit)
      const;
  absl::StatusOr<Values> Lookup(const rocksdb::ReadOptions& options,
                                Family family,
                                absl::Span<const absl::string_view> ids) const;
  absl::StatusOr<Item> Decode(absl::string_view id,
                              absl::string_view header) const;
  // `embedding` has the store's dimension.
  absl::Status DecodeEmbedding(absl::string_view id, absl::string_view bytes,
                               absl::Span<float> embedding) const;
  // FromRead(); a damaged file ends the writes too.
  absl::Status CheckRead(const rocksdb::Status& status) const;

  // Before an item is written that expires then.
  void NoteExpiry(absl::Time time) const;

  // Of SyncMode::kInterval.
  void SyncRegularly(absl::Duration interval);

  const std::string path_;
  const int64_t dimension_;
  const bool sync_;
  const RealClock system_clock_;

  const std::shared_ptr<Refusal> refusal_ = std::make_shared<Refusal>();
  mutable Expiry expiry_;
  const std::shared_ptr<LogSyncs> log_syncs_ = std::make_shared<LogSyncs>();
  std::unique_ptr<rocksdb::Env> env_;  // Null: not the store's own.
  std::unique_ptr<rocksdb::DB> db_;
  std::array<rocksdb::ColumnFamilyHandle*, kFamilies> families_{};

  IdLocks locks_;
  std::unique_ptr<SequenceNumbers> numbers_;  // Set by Open().
  std::atomic<uint64_t> trimmed_ = 0;
  std::atomic<int64_t> count_ = 0;
  // Nothing expires earlier; it only ever falls. Unix nanoseconds.
  mutable std::atomic<int64_t> first_expiry_ =
      std::numeric_limits<int64_t>::max();

  absl::Mutex sync_mutex_;
  bool unsynced_ ABSL_GUARDED_BY(sync_mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(sync_mutex_) = false;
  std::thread syncing_;  // Joined first.
};

absl::StatusOr<std::unique_ptr<RocksdbItemStore::Database>>
RocksdbItemStore::Database::Open(const RocksdbItemStoreOptions& options) {
  QUERN_RETURN_IF_ERROR(CheckOptions(options));
  if (options.read_only.empty()) {
    QUERN_RETURN_IF_ERROR(EnsureDirectory(options.path));
  }
  auto database = std::unique_ptr<Database>(new Database(options));
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         database->CheckFamilies(options));
  QUERN_RETURN_IF_ERROR(database->OpenFamilies(options, names));
  QUERN_RETURN_IF_ERROR(database->ReadOrCreateMeta(!options.read_only.empty()));
  QUERN_RETURN_IF_ERROR(database->ReadSequences());
  QUERN_RETURN_IF_ERROR(database->ReadFirstExpiry());
  if (options.sync == SyncMode::kInterval && options.read_only.empty()) {
    database->syncing_ = std::thread(&Database::SyncRegularly, database.get(),
                                     options.sync_interval);
  }
  return database;
}

RocksdbItemStore::Database::~Database() {
  {
    absl::MutexLock lock(&sync_mutex_);
    closing_ = true;
  }
  if (syncing_.joinable()) syncing_.join();
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    if (family != nullptr) db_->DestroyColumnFamilyHandle(family);
  }
}

// RocksDB refuses to open a store with families that it is not told of; a newer
// version may have more of them.
absl::StatusOr<std::vector<std::string>>
RocksdbItemStore::Database::CheckFamilies(
    const RocksdbItemStoreOptions& options) const {
  std::vector<std::string> names;
  std::error_code ignored;
  if (!std::filesystem::exists(path_ + "/CURRENT", ignored)) {
    if (options.read_only.empty()) return names;
    return absl::DataLossError(
        absl::StrCat("the store at ", path_, " is damaged: it has no CURRENT"));
  }
  QUERN_RETURN_IF_ERROR(FromOpen(
      rocksdb::DB::ListColumnFamilies(DatabaseOptions(options), path_, &names),
      path_));
  for (const std::string& name : names) {
    if (std::find(kFamilyNames.begin(), kFamilyNames.end(), name) ==
        kFamilyNames.end()) {
      return NewerFormat(path_,
                         absl::StrCat("it has records of kind ", Quoted(name)));
    }
  }
  return names;
}

absl::Status RocksdbItemStore::Database::OpenFamilies(
    const RocksdbItemStoreOptions& options,
    absl::Span<const std::string> names) {
  RocksdbItemStoreOptions with_cache = options;
  if (with_cache.block_cache == nullptr) {
    with_cache.block_cache = CreateBlockCache(kDefaultBlockCacheBytes);
  }
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(kFamilies);
  // A store of format 2 that is only read stays without its last family.
  const bool lacks_media = !options.read_only.empty() &&
                           std::find(names.begin(), names.end(),
                                     kFamilyNames[kMedia]) == names.end();
  for (int family = 0; family < kFamilies - (lacks_media ? 1 : 0); ++family) {
    descriptors.emplace_back(
        kFamilyNames[family],
        FamilyOptions(static_cast<Family>(family), with_cache));
  }
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  rocksdb::DBOptions database = DatabaseOptions(options);
  database.listeners.push_back(
      std::make_shared<FailureListener>(path_, refusal_));
  if (options.read_only.empty()) {
    env_ = MakeLogSyncEnv(database.env, path_, log_syncs_);
    database.env = env_.get();
  }
  QUERN_RETURN_IF_ERROR(FromOpen(
      options.read_only.empty()
          ? rocksdb::DB::Open(database, path_, descriptors, &handles, &db)
          : rocksdb::DB::OpenForReadOnly(database, path_, descriptors, &handles,
                                         &db),
      path_));
  db_.reset(db);
  std::copy(handles.begin(), handles.end(), families_.begin());
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::ReadOrCreateMeta(bool read_only) {
  absl::StatusOr<std::string> format_version = ReadMetaValue(kFormatVersionKey);
  if (absl::IsNotFound(format_version.status()) && !read_only) {
    return CreateMeta();
  }
  QUERN_RETURN_IF_ERROR(format_version.status());
  return ReadMeta(*format_version, read_only);
}

absl::Status RocksdbItemStore::Database::CreateMeta() {
  const std::unique_ptr<rocksdb::Iterator> items(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kItems]));
  items->SeekToFirst();
  if (items->Valid()) {
    return absl::DataLossError(absl::StrCat(
        "the store at ", path_, " is damaged: it has items and no record \"",
        kFormatVersionKey, "\": restore a snapshot"));
  }
  rocksdb::WriteBatch batch;
  batch.Put(families_[kMeta], ToSlice(kFormatVersionKey),
            absl::StrCat(kStoreFormatVersion));
  batch.Put(families_[kMeta], ToSlice(kDimensionKey), absl::StrCat(dimension_));
  batch.Put(families_[kMeta], ToSlice(kCountKey), EncodeCount(0));
  batch.Put(families_[kMeta], ToSlice(kTrimmedKey), "0");
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return WriteBatch(synced, batch);
}

absl::Status RocksdbItemStore::Database::ReadMeta(
    absl::string_view format_version, bool read_only) {
  int64_t version = 0;
  if (!absl::SimpleAtoi(format_version, &version) ||
      version > kStoreFormatVersion) {
    return NewerFormat(path_,
                       absl::StrCat("its format is ", Quoted(format_version)));
  }
  QUERN_ASSIGN_OR_RETURN(int64_t dimension, ReadMetaNumber(kDimensionKey));
  if (dimension != dimension_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the store at ", path_, " holds embeddings of dimension ", dimension,
        ", and ", dimension_,
        " is asked for: use the model that it was made with, or index its "
        "media into a new collection"));
  }
  QUERN_ASSIGN_OR_RETURN(std::string count, ReadMetaValue(kCountKey));
  QUERN_ASSIGN_OR_RETURN(int64_t items, DecodeCount(count));
  count_ = items;
  // What is only read stays as it is.
  return version < kStoreFormatVersion && !read_only ? Upgrade(version)
                                                     : absl::OkStatus();
}

// Format 1 lacks parts, the change log, the expiries and what a header says of
// them; its headers are read as they are until their items are written again.
// Format 2 lacks media, format 3 packs no vectors.
absl::Status RocksdbItemStore::Database::Upgrade(int64_t version) {
  rocksdb::WriteBatch batch;
  batch.Put(families_[kMeta], ToSlice(kFormatVersionKey),
            absl::StrCat(kStoreFormatVersion));
  if (version == 1) {
    batch.Put(families_[kMeta], ToSlice(kTrimmedKey),
              absl::StrCat(kUpgradeSequence));
  }
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return WriteBatch(synced, batch);
}

absl::Status RocksdbItemStore::Database::ReadSequences() {
  QUERN_ASSIGN_OR_RETURN(const int64_t trimmed, ReadMetaNumber(kTrimmedKey));
  trimmed_ = trimmed;
  uint64_t last = trimmed;
  const std::unique_ptr<rocksdb::Iterator> changes(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kChanges]));
  changes->SeekToLast();
  QUERN_RETURN_IF_ERROR(FromRead(changes->status(), path_));
  if (changes->Valid()) {
    absl::string_view key = ToView(changes->key());
    QUERN_ASSIGN_OR_RETURN(const uint64_t logged, TakeChangeSequence(key));
    last = std::max(last, logged);
  }
  numbers_ = std::make_unique<SequenceNumbers>(last);
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::ReadFirstExpiry() {
  // Format 1, only read.
  if (families_[kExpiries] == nullptr) return absl::OkStatus();
  const std::unique_ptr<rocksdb::Iterator> expiries(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kExpiries]));
  expiries->SeekToFirst();
  QUERN_RETURN_IF_ERROR(FromRead(expiries->status(), path_));
  if (expiries->Valid()) {
    absl::string_view key = ToView(expiries->key());
    QUERN_ASSIGN_OR_RETURN(const absl::Time time, TakeExpiryTime(key));
    NoteExpiry(time);
  }
  return absl::OkStatus();
}

void RocksdbItemStore::Database::NoteExpiry(absl::Time time) const {
  const int64_t nanos = absl::ToUnixNanos(time);
  int64_t first = first_expiry_;
  while (nanos < first && !first_expiry_.compare_exchange_weak(first, nanos)) {
  }
}

absl::StatusOr<std::string> RocksdbItemStore::Database::ReadMetaValue(
    absl::string_view key) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), families_[kMeta], ToSlice(key), &value);
  if (status.IsNotFound()) {
    return absl::NotFoundError(absl::StrCat("no record ", Quoted(key)));
  }
  QUERN_RETURN_IF_ERROR(FromRead(status, path_));
  return value;
}

absl::StatusOr<int64_t> RocksdbItemStore::Database::ReadMetaNumber(
    absl::string_view key) const {
  QUERN_ASSIGN_OR_RETURN(std::string text, ReadMetaValue(key));
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) {
    return absl::DataLossError(absl::StrCat("the store at ", path_,
                                            " is damaged: its record ",
                                            Quoted(key), " is ", Quoted(text)));
  }
  return number;
}

absl::StatusOr<std::vector<RocksdbItemStore::Database::Known>>
RocksdbItemStore::Database::Find(
    absl::Span<const absl::string_view> ids) const {
  QUERN_ASSIGN_OR_RETURN(const Values headers,
                         Lookup(rocksdb::ReadOptions(), kItems, ids));
  const Expiry::View view = expiry_.Look(last_sequence());
  std::vector<Known> known(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!headers[i].has_value()) continue;
    QUERN_ASSIGN_OR_RETURN(known[i].item, Decode(ids[i], ToView(*headers[i])));
    known[i].exists =
        !view.Expired(known[i].item->sequence, known[i].item->expire_time);
  }
  return known;
}

absl::StatusOr<std::vector<PutResult>> RocksdbItemStore::Database::Put(
    absl::Span<const Item> items) {
  QUERN_RETURN_IF_ERROR(CheckItems(items, dimension_));
  if (items.empty()) return std::vector<PutResult>();
  std::vector<absl::string_view> ids;
  ids.reserve(items.size());
  for (const Item& item : items) ids.push_back(item.id);
  ids = Distinct(std::move(ids));

  const IdLocks::Holder holder(locks_, ids);
  QUERN_ASSIGN_OR_RETURN(const std::vector<Known> known, Find(ids));
  // What each id will hold: null is what it holds now.
  std::vector<const Item*> last(ids.size());
  std::vector<std::optional<uint64_t>> sequences(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (known[i].exists) sequences[i] = known[i].item->sequence;
  }
  SequenceNumbers::Block numbers(*numbers_, items.size());
  std::vector<PutResult> results(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const size_t slot =
        std::lower_bound(ids.begin(), ids.end(), items[i].id) - ids.begin();
    results[i].status = CheckIfSequence(items[i], sequences[slot]);
    if (!results[i].status.ok()) continue;
    results[i].created = !sequences[slot].has_value();
    results[i].sequence = numbers.first() + i;
    sequences[slot] = results[i].sequence;
    last[slot] = &items[i];
  }

  rocksdb::WriteBatch batch;
  int64_t added = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (last[i] == nullptr) continue;
    if (!known[i].item.has_value()) ++added;
    const absl::Time create_time =
        known[i].exists ? known[i].item->create_time : last[i]->create_time;
    QUERN_RETURN_IF_ERROR(
        AddToBatch(*last[i], create_time, *sequences[i], known[i], batch));
  }
  if (batch.Count() == 0) return results;
  QUERN_RETURN_IF_ERROR(Write(batch, added, numbers));
  return results;
}

absl::Status RocksdbItemStore::Database::AddToBatch(
    const Item& item, absl::Time create_time, uint64_t sequence,
    const Known& known, rocksdb::WriteBatch& batch) const {
  QUERN_RETURN_IF_ERROR(
      FromWrite(batch.Put(families_[kPayloads], item.id, item.payload), path_));
  QUERN_RETURN_IF_ERROR(FromWrite(
      batch.Put(families_[kVectors], item.id, EncodeVector(item.embedding)),
      path_));
  QUERN_RETURN_IF_ERROR(
      AddOptionalToBatch(kParts, item.id, item.parts, known, batch));
  QUERN_RETURN_IF_ERROR(
      AddOptionalToBatch(kMedia, item.id, item.media, known, batch));
  return AddHeaderToBatch(item, create_time, sequence, known, batch);
}

absl::Status RocksdbItemStore::Database::AddOptionalToBatch(
    Family family, const std::string& id, const std::string& bytes,
    const Known& known, rocksdb::WriteBatch& batch) const {
  if (!bytes.empty()) {
    return FromWrite(batch.Put(families_[family], id, bytes), path_);
  }
  if (!known.item.has_value()) return absl::OkStatus();
  return FromWrite(batch.Delete(families_[family], id), path_);
}

absl::Status RocksdbItemStore::Database::AddHeaderToBatch(
    const Item& item, absl::Time create_time, uint64_t sequence,
    const Known& known, rocksdb::WriteBatch& batch) const {
  QUERN_RETURN_IF_ERROR(
      FromWrite(batch.Put(families_[kItems], item.id,
                          EncodeHeader(item, create_time, sequence)),
                path_));
  // What is imported may be older than the log.
  if (sequence > trimmed_) {
    QUERN_RETURN_IF_ERROR(FromWrite(
        batch.Put(families_[kChanges], EncodeChangeKey(sequence, item.id),
                  rocksdb::Slice()),
        path_));
  }
  if (known.item.has_value() && known.item->expire_time.has_value()) {
    QUERN_RETURN_IF_ERROR(FromWrite(
        batch.Delete(families_[kExpiries],
                     EncodeExpiryKey(*known.item->expire_time, item.id)),
        path_));
  }
  if (!item.expire_time.has_value()) return absl::OkStatus();
  NoteExpiry(*item.expire_time);
  return FromWrite(batch.Put(families_[kExpiries],
                             EncodeExpiryKey(*item.expire_time, item.id),
                             EncodeCount(static_cast<int64_t>(sequence))),
                   path_);
}

absl::StatusOr<Item> RocksdbItemStore::Database::Update(
    const std::string& id, const std::function<absl::Status(Item&)>& change) {
  const std::vector<absl::string_view> ids = {id};
  const IdLocks::Holder holder(locks_, ids);
  QUERN_ASSIGN_OR_RETURN(const std::vector<Known> known, Find(ids));
  if (!known[0].exists) return NotFound("item", id);
  QUERN_ASSIGN_OR_RETURN(const Values payloads,
                         Lookup(rocksdb::ReadOptions(), kPayloads, ids));
  if (!payloads[0].has_value()) {
    return DamagedItem(path_, id, "it has no record \"payloads\"");
  }
  Item item = *known[0].item;
  item.payload = payloads[0]->ToString();
  QUERN_RETURN_IF_ERROR(change(item));
  item.id = id;
  item.create_time = known[0].item->create_time;
  QUERN_RETURN_IF_ERROR(CheckMediaUri(item));
  SequenceNumbers::Block numbers(*numbers_, 1);
  item.sequence = numbers.first();
  rocksdb::WriteBatch batch;
  QUERN_RETURN_IF_ERROR(
      FromWrite(batch.Put(families_[kPayloads], id, item.payload), path_));
  QUERN_RETURN_IF_ERROR(
      AddHeaderToBatch(item, item.create_time, item.sequence, known[0], batch));
  QUERN_RETURN_IF_ERROR(Write(batch, 0, numbers));
  return item;
}

absl::StatusOr<int64_t> RocksdbItemStore::Database::Delete(
    absl::Span<const std::string> ids) {
  const std::vector<absl::string_view> distinct =
      Distinct({ids.begin(), ids.end()});
  const IdLocks::Holder holder(locks_, distinct);
  return Remove(
      distinct, [](const Item& /*item*/) { return true; }, nullptr);
}

absl::StatusOr<std::vector<std::string>>
RocksdbItemStore::Database::RemoveExpired(int64_t limit) {
  const Expiry::View view = expiry_.Look(last_sequence());
  std::string place;
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> found,
                         ListExpired(view, &place, limit));
  const std::vector<absl::string_view> ids =
      Distinct({found.begin(), found.end()});
  std::vector<std::string> removed;
  {
    const IdLocks::Holder holder(locks_, ids);
    // One may have been written again since it was found.
    QUERN_RETURN_IF_ERROR(Remove(
                              ids,
                              [&view](const Item& item) {
                                return view.Expired(item.sequence,
                                                    item.expire_time);
                              },
                              &removed)
                              .status());
  }
  if (static_cast<int64_t>(found.size()) < limit) expiry_.Forget(view);
  return removed;
}

absl::StatusOr<std::vector<std::string>>
RocksdbItemStore::Database::ListExpired(const Expiry::View& view,
                                        std::string* place,
                                        int64_t limit) const {
  std::vector<std::string> found;
  const std::unique_ptr<rocksdb::Iterator> expiries(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kExpiries]));
  expiries->Seek(*place);
  if (expiries->Valid() && ToView(expiries->key()) == *place) expiries->Next();
  for (; expiries->Valid() && static_cast<int64_t>(found.size()) < limit;
       expiries->Next()) {
    absl::string_view id = ToView(expiries->key());
    QUERN_ASSIGN_OR_RETURN(const absl::Time time, TakeExpiryTime(id));
    if (time > view.latest()) break;
    *place = expiries->key().ToString();
    QUERN_ASSIGN_OR_RETURN(const int64_t sequence,
                           DecodeCount(ToView(expiries->value())));
    if (view.Expired(sequence, time)) found.emplace_back(id);
  }
  QUERN_RETURN_IF_ERROR(CheckRead(expiries->status()));
  return found;
}

absl::StatusOr<int64_t> RocksdbItemStore::Database::Remove(
    absl::Span<const absl::string_view> ids,
    const std::function<bool(const Item&)>& is_wanted,
    std::vector<std::string>* removed) {
  if (ids.empty()) return 0;
  QUERN_ASSIGN_OR_RETURN(const std::vector<Known> known, Find(ids));
  SequenceNumbers::Block numbers(*numbers_, ids.size());
  rocksdb::WriteBatch batch;
  int64_t records = 0;
  int64_t existed = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!known[i].item.has_value() || !is_wanted(*known[i].item)) continue;
    QUERN_RETURN_IF_ERROR(AddRemovalToBatch(ids[i], *known[i].item,
                                            numbers.first() + records, batch));
    ++records;
    if (known[i].exists) ++existed;
    if (removed != nullptr) removed->emplace_back(ids[i]);
  }
  if (records == 0) return 0;
  QUERN_RETURN_IF_ERROR(Write(batch, -records, numbers));
  return existed;
}

absl::Status RocksdbItemStore::Database::AddRemovalToBatch(
    absl::string_view id, const Item& item, uint64_t sequence,
    rocksdb::WriteBatch& batch) const {
  for (const Family family : kItemFamilies) {
    QUERN_RETURN_IF_ERROR(
        FromWrite(batch.Delete(families_[family], ToSlice(id)), path_));
  }
  if (item.expire_time.has_value()) {
    QUERN_RETURN_IF_ERROR(
        FromWrite(batch.Delete(families_[kExpiries],
                               EncodeExpiryKey(*item.expire_time, id)),
                  path_));
  }
  return FromWrite(batch.Put(families_[kChanges], EncodeChangeKey(sequence, id),
                             rocksdb::Slice()),
                   path_);
}

absl::Status RocksdbItemStore::Database::Import(
    absl::Span<const Item> items, absl::Span<const std::string> removed,
    uint64_t sequence) {
  QUERN_RETURN_IF_ERROR(CheckItems(items, dimension_));
  rocksdb::WriteBatch batch;
  if (last_sequence() == 0 && sequence > 0) {
    QUERN_RETURN_IF_ERROR(
        FromWrite(batch.Put(families_[kMeta], ToSlice(kTrimmedKey),
                            absl::StrCat(sequence)),
                  path_));
    QUERN_RETURN_IF_ERROR(Write(batch, 0));
    trimmed_ = sequence;
    numbers_->RaiseTo(sequence);
    batch.Clear();
  }
  std::vector<absl::string_view> ids;
  ids.reserve(items.size() + removed.size());
  for (const Item& item : items) ids.push_back(item.id);
  ids.insert(ids.end(), removed.begin(), removed.end());
  const IdLocks::Holder holder(locks_, ids);
  QUERN_ASSIGN_OR_RETURN(const std::vector<Known> known, Find(ids));
  int64_t count_change = 0;
  uint64_t last = sequence;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!known[i].item.has_value()) ++count_change;
    last = std::max(last, items[i].sequence);
    QUERN_RETURN_IF_ERROR(AddToBatch(items[i], items[i].create_time,
                                     items[i].sequence, known[i], batch));
  }
  for (size_t i = items.size(); i < ids.size(); ++i) {
    // Also of one that was never here: the log must end where the other's does.
    if (known[i].item.has_value()) --count_change;
    QUERN_RETURN_IF_ERROR(AddRemovalToBatch(
        ids[i], known[i].item.value_or(Item()), sequence, batch));
  }
  if (batch.Count() > 0) QUERN_RETURN_IF_ERROR(Write(batch, count_change));
  numbers_->RaiseTo(last);
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::AfterSync(
    const rocksdb::Status& status) const {
  return FromWrite(status.ok() ? log_syncs_->status() : status, path_);
}

absl::Status RocksdbItemStore::Database::WriteBatch(
    const rocksdb::WriteOptions& options, rocksdb::WriteBatch& batch) {
  return AfterSync(db_->Write(options, &batch));
}

absl::Status RocksdbItemStore::Database::Write(
    rocksdb::WriteBatch& batch, int64_t count_change,
    SequenceNumbers::Block& numbers) {
  QUERN_RETURN_IF_ERROR(Write(batch, count_change));
  numbers.set_written();
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::Write(rocksdb::WriteBatch& batch,
                                               int64_t count_change) {
  QUERN_RETURN_IF_ERROR(refusal_->status());
  if (count_change != 0) {
    QUERN_RETURN_IF_ERROR(
        FromWrite(batch.Merge(families_[kMeta], ToSlice(kCountKey),
                              EncodeCount(count_change)),
                  path_));
  }
  rocksdb::WriteOptions options;
  options.sync = sync_;
  const absl::Status status = WriteBatch(options, batch);
  refusal_->Record(status);
  QUERN_RETURN_IF_ERROR(status);
  count_.fetch_add(count_change, std::memory_order_relaxed);
  if (syncing_.joinable()) {
    absl::MutexLock lock(&sync_mutex_);
    unsynced_ = true;
  }
  return absl::OkStatus();
}

void RocksdbItemStore::Database::SyncRegularly(absl::Duration interval) {
  absl::MutexLock lock(&sync_mutex_);
  while (!closing_) {
    sync_mutex_.AwaitWithTimeout(absl::Condition(&closing_), interval);
    if (!unsynced_) continue;
    unsynced_ = false;
    sync_mutex_.Unlock();
    refusal_->Record(AfterSync(db_->SyncWAL()));
    sync_mutex_.Lock();
  }
}

absl::Status RocksdbItemStore::Database::CheckRead(
    const rocksdb::Status& status) const {
  absl::Status checked = FromRead(status, path_);
  refusal_->Record(checked);
  return checked;
}

absl::Status RocksdbItemStore::Database::ScanChanges(
    uint64_t after,
    const std::function<bool(uint64_t, absl::string_view)>& visit) const {
  const std::unique_ptr<rocksdb::Iterator> changes(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kChanges]));
  for (changes->Seek(EncodeChangeKey(after + 1, "")); changes->Valid();
       changes->Next()) {
    absl::string_view id = ToView(changes->key());
    QUERN_ASSIGN_OR_RETURN(const uint64_t sequence, TakeChangeSequence(id));
    if (!visit(sequence, id)) return absl::OkStatus();
  }
  return CheckRead(changes->status());
}

absl::Status RocksdbItemStore::Database::TrimChanges(uint64_t up_to) {
  if (up_to > last_sequence()) {
    return InvalidField(
        "up_to",
        absl::StrCat("is ", up_to, "; the last write is ", last_sequence()));
  }
  if (up_to <= trimmed_) return absl::OkStatus();
  QUERN_RETURN_IF_ERROR(refusal_->status());
  rocksdb::WriteBatch batch;
  QUERN_RETURN_IF_ERROR(
      FromWrite(batch.DeleteRange(families_[kChanges], EncodeChangeKey(0, ""),
                                  EncodeChangeKey(up_to + 1, "")),
                path_));
  QUERN_RETURN_IF_ERROR(FromWrite(
      batch.Put(families_[kMeta], ToSlice(kTrimmedKey), absl::StrCat(up_to)),
      path_));
  // Not synced: what comes back after a power cut is trimmed once more.
  const absl::Status status = WriteBatch(rocksdb::WriteOptions(), batch);
  refusal_->Record(status);
  QUERN_RETURN_IF_ERROR(status);
  trimmed_ = up_to;
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::VisitRecords(
    const rocksdb::ReadOptions& options, Family family,
    absl::Span<const absl::string_view> ids,
    absl::FunctionRef<absl::Status(size_t, rocksdb::PinnableSlice&)> visit)
    const {
  if (families_[family] == nullptr) return absl::OkStatus();
  std::vector<rocksdb::Slice> keys;
  keys.reserve(ids.size());
  for (absl::string_view id : ids) keys.push_back(ToSlice(id));
  std::vector<rocksdb::PinnableSlice> found(keys.size());
  std::vector<rocksdb::Status> statuses(keys.size());
  db_->MultiGet(options, families_[family], keys.size(), keys.data(),
                found.data(), statuses.data());

  for (size_t i = 0; i < keys.size(); ++i) {
    if (statuses[i].IsNotFound()) continue;
    if (!statuses[i].ok()) {
      return Annotate(CheckRead(statuses[i]),
                      absl::StrCat("item ", Quoted(ids[i])));
    }
    QUERN_RETURN_IF_ERROR(visit(i, found[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<RocksdbItemStore::Database::Values>
RocksdbItemStore::Database::Lookup(
    const rocksdb::ReadOptions& options, Family family,
    absl::Span<const absl::string_view> ids) const {
  Values values(ids.size());
  QUERN_RETURN_IF_ERROR(VisitRecords(
      options, family, ids, [&](size_t i, rocksdb::PinnableSlice& record) {
        values[i] = std::move(record);
        return absl::OkStatus();
      }));
  return values;
}

absl::StatusOr<Item> RocksdbItemStore::Database::Decode(
    absl::string_view id, absl::string_view header) const {
  absl::StatusOr<Item> item = DecodeHeader(header);
  if (!item.ok()) return DamagedItem(path_, id, item.status().message());
  item->id.assign(id.data(), id.size());
  return item;
}

absl::Status RocksdbItemStore::Database::DecodeEmbedding(
    absl::string_view id, absl::string_view bytes,
    absl::Span<float> embedding) const {
  const absl::Status status = DecodeVector(bytes, embedding);
  return status.ok() ? status : DamagedItem(path_, id, status.message());
}

absl::StatusOr<std::vector<std::optional<Item>>>
RocksdbItemStore::Database::Get(absl::Span<const std::string> ids,
                                ItemParts parts) const {
  const Expiry::View view = expiry_.Look(last_sequence());
  std::vector<std::optional<Item>> items(ids.size());
  if (parts.ids_only() && absl::ToUnixNanos(view.latest()) < first_expiry_) {
    for (size_t i = 0; i < ids.size(); ++i) items[i].emplace().id = ids[i];
    return items;
  }
  // One snapshot for all lookups: the parts of an item come from one Put().
  rocksdb::ManagedSnapshot snapshot(db_.get());
  rocksdb::ReadOptions options;
  options.snapshot = snapshot.snapshot();
  const std::vector<absl::string_view> keys(ids.begin(), ids.end());
  QUERN_ASSIGN_OR_RETURN(Values headers, Lookup(options, kItems, keys));
  Values payloads;
  if (parts.payload) {
    QUERN_ASSIGN_OR_RETURN(payloads, Lookup(options, kPayloads, keys));
  }
  Values vectors;
  if (parts.embedding) {
    QUERN_ASSIGN_OR_RETURN(vectors, Lookup(options, kVectors, keys));
  }
  Values features;
  if (parts.parts) {
    QUERN_ASSIGN_OR_RETURN(features, Lookup(options, kParts, keys));
  }
  Values media;
  if (parts.media) {
    QUERN_ASSIGN_OR_RETURN(media, Lookup(options, kMedia, keys));
  }

  for (size_t i = 0; i < ids.size(); ++i) {
    if (!headers[i].has_value()) continue;
    QUERN_ASSIGN_OR_RETURN(Item item, Decode(ids[i], ToView(*headers[i])));
    if (view.Expired(item.sequence, item.expire_time)) continue;
    items[i] = std::move(item);
    if (parts.payload) {
      if (!payloads[i].has_value()) {
        return DamagedItem(path_, ids[i], "it has no record \"payloads\"");
      }
      items[i]->payload = payloads[i]->ToString();
    }
    if (parts.embedding) {
      if (!vectors[i].has_value()) {
        return DamagedItem(path_, ids[i], "it has no record \"vectors\"");
      }
      items[i]->embedding.resize(dimension_);
      QUERN_RETURN_IF_ERROR(DecodeEmbedding(
          ids[i], ToView(*vectors[i]), absl::MakeSpan(items[i]->embedding)));
    }
    if (parts.parts && features[i].has_value()) {
      items[i]->parts = features[i]->ToString();
    }
    if (parts.media && media[i].has_value()) {
      items[i]->media = media[i]->ToString();
    }
  }
  return items;
}

absl::Status RocksdbItemStore::Database::GetEmbeddings(
    absl::Span<const std::string> ids,
    const std::function<void(size_t, absl::Span<const float>)>& visit) const {
  const std::vector<absl::string_view> keys(ids.begin(), ids.end());
  std::vector<float> embedding(dimension_);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  return VisitRecords(
      options, kVectors, keys,
      [&](size_t i, const rocksdb::PinnableSlice& record) -> absl::Status {
        QUERN_RETURN_IF_ERROR(
            DecodeEmbedding(ids[i], ToView(record), absl::MakeSpan(embedding)));
        visit(i, embedding);
        return absl::OkStatus();
      });
}

absl::Status RocksdbItemStore::Database::VisitParts(
    absl::Span<const std::string> ids,
    const std::function<bool(size_t, absl::string_view)>& visit) const {
  bool goes_on = true;
  for (size_t first = 0; goes_on && first < ids.size();
       first += kVisitedAtOnce) {
    const auto some = ids.subspan(first, kVisitedAtOnce);
    QUERN_RETURN_IF_ERROR(
        VisitRecords(rocksdb::ReadOptions(), kParts,
                     std::vector<absl::string_view>(some.begin(), some.end()),
                     [&](size_t i, const rocksdb::PinnableSlice& record) {
                       goes_on = goes_on && visit(first + i, ToView(record));
                       return absl::OkStatus();
                     }));
  }
  return absl::OkStatus();
}

namespace {

// Walks a family beside the walk over the items. Most items have a record in
// each family, so both take the same steps.
class Follower {
 public:
  Follower(rocksdb::DB* db, const rocksdb::ReadOptions& options,
           rocksdb::ColumnFamilyHandle* family)
      : iterator_(db->NewIterator(options, family)) {}

  // The record of `id`, until the next call; nullopt where there is none.
  // Called with ascending ids.
  std::optional<absl::string_view> Find(const rocksdb::Slice& id) {
    const bool is_behind =
        started_ && iterator_->Valid() && iterator_->key().compare(id) < 0;
    if (is_behind) iterator_->Next();
    if (!started_ || (iterator_->Valid() && iterator_->key().compare(id) < 0)) {
      iterator_->Seek(id);
    }
    started_ = true;
    if (!iterator_->Valid() || iterator_->key() != id) return std::nullopt;
    return ToView(iterator_->value());
  }

  rocksdb::Status status() const { return iterator_->status(); }

 private:
  const std::unique_ptr<rocksdb::Iterator> iterator_;
  bool started_ = false;
};

}  // namespace

absl::Status RocksdbItemStore::Database::Scan(
    absl::string_view after_id, ItemParts parts,
    const std::function<bool(Item)>& visit) const {
  rocksdb::ManagedSnapshot snapshot(db_.get());
  rocksdb::ReadOptions options;
  options.snapshot = snapshot.snapshot();
  options.readahead_size = kScanReadaheadBytes;
  options.fill_cache = false;
  std::optional<Follower> payloads;
  if (parts.payload) payloads.emplace(db_.get(), options, families_[kPayloads]);
  std::optional<Follower> vectors;
  if (parts.embedding) vectors.emplace(db_.get(), options, families_[kVectors]);
  std::optional<Follower> features;
  if (parts.parts) features.emplace(db_.get(), options, families_[kParts]);
  std::optional<Follower> media;
  if (parts.media && families_[kMedia] != nullptr) {
    media.emplace(db_.get(), options, families_[kMedia]);
  }

  const auto missing = [this](const Follower& follower, absl::string_view id,
                              absl::string_view record) -> absl::Status {
    QUERN_RETURN_IF_ERROR(CheckRead(follower.status()));
    return DamagedItem(path_, id,
                       absl::StrCat("it has no record \"", record, "\""));
  };
  const Expiry::View view = expiry_.Look(last_sequence());
  const std::unique_ptr<rocksdb::Iterator> headers(
      db_->NewIterator(options, families_[kItems]));
  headers->Seek(ToSlice(after_id));
  if (headers->Valid() && ToView(headers->key()) == after_id) headers->Next();
  for (; headers->Valid(); headers->Next()) {
    const absl::string_view id = ToView(headers->key());
    QUERN_ASSIGN_OR_RETURN(Item item, Decode(id, ToView(headers->value())));
    if (view.Expired(item.sequence, item.expire_time)) continue;
    if (payloads.has_value()) {
      std::optional<absl::string_view> payload = payloads->Find(headers->key());
      if (!payload.has_value()) return missing(*payloads, id, "payloads");
      item.payload.assign(payload->data(), payload->size());
    }
    if (vectors.has_value()) {
      std::optional<absl::string_view> vector = vectors->Find(headers->key());
      if (!vector.has_value()) return missing(*vectors, id, "vectors");
      item.embedding.resize(dimension_);
      QUERN_RETURN_IF_ERROR(
          DecodeEmbedding(id, *vector, absl::MakeSpan(item.embedding)));
    }
    if (features.has_value()) {
      item.parts = std::string(features->Find(headers->key()).value_or(""));
      QUERN_RETURN_IF_ERROR(CheckRead(features->status()));
    }
    if (media.has_value()) {
      item.media = std::string(media->Find(headers->key()).value_or(""));
      QUERN_RETURN_IF_ERROR(CheckRead(media->status()));
    }
    if (!visit(std::move(item))) return absl::OkStatus();
  }
  return CheckRead(headers->status());
}

absl::Status RocksdbItemStore::Database::Checkpoint(
    const std::string& directory) const {
  rocksdb::Checkpoint* made = nullptr;
  const rocksdb::Status status = rocksdb::Checkpoint::Create(db_.get(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  QUERN_RETURN_IF_ERROR(FromCheckpoint(status, path_));
  // The logs are copied instead of flushed: a flush that fails for want of room
  // would end the writes.
  return FromCheckpoint(checkpoint->CreateCheckpoint(
                            directory, std::numeric_limits<uint64_t>::max()),
                        path_);
}

int64_t RocksdbItemStore::Database::disk_bytes() const {
  int64_t bytes = 0;
  std::error_code error;
  std::filesystem::directory_iterator entry(path_, error);
  while (!error && entry != std::filesystem::directory_iterator()) {
    // Compaction may have removed the file by now: it counts as nothing.
    std::error_code gone;
    const auto file_bytes = entry->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(file_bytes);
    entry.increment(error);
  }
  return bytes;
}

std::shared_ptr<rocksdb::Cache> CreateBlockCache(int64_t bytes) {
  return rocksdb::NewLRUCache(bytes);
}

absl::StatusOr<std::unique_ptr<RocksdbItemStore>> RocksdbItemStore::Open(
    const RocksdbItemStoreOptions& options) {
  std::unique_ptr<RocksdbItemStore> store(new RocksdbItemStore(options));
  absl::MutexLock lock(&store->mutex_);
  QUERN_RETURN_IF_ERROR(store->Reopen());
  return store;
}

RocksdbItemStore::RocksdbItemStore(const RocksdbItemStoreOptions& options)
    : options_(options) {}

RocksdbItemStore::~RocksdbItemStore() = default;

template <typename Work>
auto RocksdbItemStore::With(Work work) const
    -> std::invoke_result_t<Work, Database&> {
  Database* database = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    auto open = [this]()
                    ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !reopening_; };
    mutex_.Await(absl::Condition(&open));
    if (database_ == nullptr) return closed_;
    database = database_.get();
    ++users_;
  }
  auto result = Guard(kLibrary, [&] { return work(*database); });
  absl::MutexLock lock(&mutex_);
  --users_;
  return result;
}

absl::Status RocksdbItemStore::CheckRoom() const {
  rocksdb::Env* const env =
      options_.env == nullptr ? rocksdb::Env::Default() : options_.env;
  // What replaying the logs may write.
  uint64_t needed = kProbeBytes;
  std::error_code error;
  for (const auto& file :
       std::filesystem::directory_iterator(options_.path, error)) {
    std::error_code gone;
    const uint64_t bytes = file.file_size(gone);
    if (!gone && file.path().extension() == ".log") needed += 2 * bytes;
  }
  uint64_t free = 0;
  if (env->GetFreeSpace(options_.path, &free).ok() && free < needed) {
    return FromWrite(
        rocksdb::Status::NoSpace(absl::StrCat(free, " bytes are free, ", needed,
                                              " are needed to go on")),
        options_.path);
  }
  // A quota does not show in the free space.
  const std::string probe = options_.path + "/room.probe";
  rocksdb::Status written = rocksdb::WriteStringToFile(
      env, std::string(kProbeBytes, '\0'), probe, /*should_sync=*/true);
  (void)env->DeleteFile(probe);
  return FromWrite(written, options_.path);
}

absl::Status RocksdbItemStore::RecoverFromFullDisk() {
  absl::MutexLock lock(&mutex_);
  if (database_ != nullptr && !database_->disk_full()) return absl::OkStatus();
  QUERN_RETURN_IF_ERROR(CheckRoom());
  reopening_ = true;
  auto unused = [this]()
                    ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return users_ == 0; };
  const bool idle =
      mutex_.AwaitWithTimeout(absl::Condition(&unused), kReopenTimeout);
  reopening_ = false;
  // Another writer may have done it meanwhile.
  if (database_ != nullptr && !database_->disk_full()) return absl::OkStatus();
  if (!idle) {
    return Overloaded(absl::StrCat("the store at ", options_.path,
                                   " was full, and has readers that keep it "
                                   "from being opened again"),
                      kReopenTimeout);
  }
  database_.reset();
  return Reopen();
}

absl::Status RocksdbItemStore::Reopen() {
  absl::StatusOr<std::unique_ptr<Database>> opened = OpenDatabase();
  closed_ = opened.status();
  QUERN_RETURN_IF_ERROR(closed_);
  database_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::PrepareToWrite() {
  if (!options_.read_only.empty()) {
    return absl::FailedPreconditionError(options_.read_only);
  }
  return Guard(kLibrary, [this] { return RecoverFromFullDisk(); });
}

template <typename Work>
auto RocksdbItemStore::Write(Work work)
    -> std::invoke_result_t<Work, Database&> {
  QUERN_RETURN_IF_ERROR(PrepareToWrite());
  return With([&](Database& database) -> std::invoke_result_t<Work, Database&> {
    // Also of a write that would change nothing: an earlier one that failed may
    // be found in the log at the next start.
    QUERN_RETURN_IF_ERROR(database.write_status());
    return work(database);
  });
}

// Opens to be read at least.
absl::StatusOr<std::unique_ptr<RocksdbItemStore::Database>>
RocksdbItemStore::OpenDatabase() const {
  return Guard(kLibrary, [&]() -> absl::StatusOr<std::unique_ptr<Database>> {
    absl::StatusOr<std::unique_ptr<Database>> opened = Database::Open(options_);
    // What reading does not help with: wrong options, a newer format, another
    // server that writes.
    if (opened.ok() || !options_.read_only.empty() ||
        absl::IsInvalidArgument(opened.status()) ||
        absl::IsFailedPrecondition(opened.status())) {
      return opened;
    }
    RocksdbItemStoreOptions options = options_;
    options.read_only = std::string(opened.status().message());
    absl::StatusOr<std::unique_ptr<Database>> reading = Database::Open(options);
    if (!reading.ok()) return opened.status();
    (*reading)->Refuse(
        absl::IsResourceExhausted(opened.status()) ||
                absl::IsDataLoss(opened.status())
            ? opened.status()
            : absl::FailedPreconditionError(opened.status().message()));
    return reading;
  });
}

absl::StatusOr<std::vector<PutResult>> RocksdbItemStore::Put(
    absl::Span<const Item> items) {
  return Write([&](Database& database) { return database.Put(items); });
}

absl::StatusOr<Item> RocksdbItemStore::Update(
    const std::string& id, const std::function<absl::Status(Item&)>& change) {
  return Write([&](Database& database) { return database.Update(id, change); });
}

absl::StatusOr<int64_t> RocksdbItemStore::Delete(
    absl::Span<const std::string> ids) {
  return Write([&](Database& database) { return database.Delete(ids); });
}

absl::StatusOr<std::vector<std::string>> RocksdbItemStore::RemoveExpired(
    int64_t limit) {
  return Write(
      [&](Database& database) { return database.RemoveExpired(limit); });
}

absl::StatusOr<std::vector<std::string>> RocksdbItemStore::ListExpired(
    std::string* place, int64_t limit) const {
  return With([&](const Database& database) {
    return database.ListExpired(place, limit);
  });
}

absl::Status RocksdbItemStore::Import(absl::Span<const Item> items,
                                      absl::Span<const std::string> removed,
                                      uint64_t sequence) {
  return Write([&](Database& database) {
    return database.Import(items, removed, sequence);
  });
}

void RocksdbItemStore::KeepChanges(std::optional<uint64_t> after) {
  kept_after_ = after.value_or(std::numeric_limits<uint64_t>::max());
}

absl::Status RocksdbItemStore::TrimChanges(uint64_t up_to) {
  return Write([&](Database& database) {
    return database.TrimChanges(std::min<uint64_t>(up_to, kept_after_));
  });
}

absl::StatusOr<std::vector<std::optional<Item>>> RocksdbItemStore::Get(
    absl::Span<const std::string> ids, ItemParts parts) const {
  return With([&](Database& database) { return database.Get(ids, parts); });
}

absl::Status RocksdbItemStore::GetEmbeddings(
    absl::Span<const std::string> ids,
    const std::function<void(size_t, absl::Span<const float>)>& visit) const {
  return With(
      [&](Database& database) { return database.GetEmbeddings(ids, visit); });
}

absl::Status RocksdbItemStore::VisitParts(
    absl::Span<const std::string> ids,
    const std::function<bool(size_t, absl::string_view)>& visit) const {
  return With(
      [&](Database& database) { return database.VisitParts(ids, visit); });
}

absl::Status RocksdbItemStore::Scan(
    absl::string_view after_id, ItemParts parts,
    const std::function<bool(Item)>& visit) const {
  return With([&](Database& database) {
    return database.Scan(after_id, parts, visit);
  });
}

absl::Status RocksdbItemStore::ScanChanges(
    uint64_t after,
    const std::function<bool(uint64_t, absl::string_view)>& visit) const {
  return With(
      [&](Database& database) { return database.ScanChanges(after, visit); });
}

uint64_t RocksdbItemStore::last_sequence() const {
  absl::MutexLock lock(&mutex_);
  return database_ == nullptr ? 0 : database_->last_sequence();
}

uint64_t RocksdbItemStore::trimmed_sequence() const {
  absl::MutexLock lock(&mutex_);
  return database_ == nullptr ? 0 : database_->trimmed_sequence();
}

absl::Status RocksdbItemStore::write_status() const {
  if (!options_.read_only.empty()) {
    return absl::FailedPreconditionError(options_.read_only);
  }
  absl::MutexLock lock(&mutex_);
  return database_ == nullptr ? closed_ : database_->write_status();
}

absl::Status RocksdbItemStore::Checkpoint(const std::string& directory) const {
  return With([&](Database& database) -> absl::Status {
    return database.Checkpoint(directory);
  });
}

int64_t RocksdbItemStore::count() const {
  absl::MutexLock lock(&mutex_);
  return database_ == nullptr ? 0 : database_->count();
}

int64_t RocksdbItemStore::disk_bytes() const {
  return With([](Database& database) -> absl::StatusOr<int64_t> {
           return database.disk_bytes();
         })
      .value_or(0);
}

}  // namespace quern
