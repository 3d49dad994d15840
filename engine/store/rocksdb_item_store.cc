#include "engine/store/rocksdb_item_store.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <limits>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
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
#include "rocksdb/write_batch.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/store/id_locks.h"
#include "engine/store/item_record.h"
#include "engine/store/rocksdb_status.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "RocksDB";

constexpr int64_t kMinWriteBufferBytes = 64 << 10;
constexpr int64_t kDefaultBlockCacheBytes = 8 << 20;
constexpr double kBloomBitsPerId = 10;
constexpr size_t kScanReadaheadBytes = 2 << 20;
constexpr size_t kMaxInfoLogBytes = 1 << 20;

// Written to find out whether a disk that was full has room.
constexpr size_t kProbeBytes = 1 << 20;
// How long a store that was full waits for its readers to let it be opened
// again.
constexpr absl::Duration kReopenTimeout = absl::Seconds(1);

// The column families, one per kind of record. README.md has the layout.
enum Family { kMeta, kItems, kPayloads, kVectors, kFamilies };
const std::array<std::string, kFamilies> kFamilyNames = {
    rocksdb::kDefaultColumnFamilyName, "items", "payloads", "vectors"};

// Keys of the family kMeta.
constexpr absl::string_view kFormatVersionKey = "format_version";
constexpr absl::string_view kDimensionKey = "dimension";
constexpr absl::string_view kCountKey = "item_count";

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

// RocksDB's own recovery from a full disk tries at once, and when the disk is
// full still it gives up for good: facebook/rocksdb issues 11643 and 12998.
class NoRecovery final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/,
                            rocksdb::Status /*error*/,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::DBOptions DatabaseOptions(const RocksdbItemStoreOptions& options) {
  rocksdb::DBOptions database;
  database.create_if_missing = true;
  database.create_missing_column_families = true;
  database.db_write_buffer_size = options.write_buffer_bytes;
  database.max_total_wal_size = 2 * options.write_buffer_bytes;
  database.max_background_jobs = 2;
  database.info_log_level = rocksdb::WARN_LEVEL;
  database.max_log_file_size = kMaxInfoLogBytes;
  database.keep_log_file_num = 2;
  database.listeners.push_back(std::make_shared<NoRecovery>());
  if (options.env != nullptr) database.env = options.env;
  return database;
}

rocksdb::ColumnFamilyOptions FamilyOptions(
    Family family, const RocksdbItemStoreOptions& options) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = options.block_cache;
  table.cache_index_and_filter_blocks = true;
  if (family == kItems) {
    // Most lookups of an upsert are for ids that are new.
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerId));
  }
  rocksdb::ColumnFamilyOptions result;
  result.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  result.write_buffer_size = options.write_buffer_bytes;
  // Floats of embeddings do not compress.
  result.compression =
      family == kVectors ? rocksdb::kNoCompression : rocksdb::kLZ4Compression;
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
  if (item.media_uri.size() > std::numeric_limits<uint32_t>::max()) {
    return InvalidField("media_uri",
                        absl::StrCat("has ", item.media_uri.size(),
                                     " bytes; it must have less than 2^32"));
  }
  return absl::OkStatus();
}

absl::Status CheckItems(absl::Span<const Item> items, int64_t dimension) {
  for (size_t i = 0; i < items.size(); ++i) {
    QUERN_RETURN_IF_ERROR(InField(CheckItem(items[i], dimension),
                                  absl::StrCat("items[", i, "]")));
  }
  return absl::OkStatus();
}

// The last item of each id.
std::vector<const Item*> LastOfEachId(absl::Span<const Item> items) {
  absl::flat_hash_map<absl::string_view, const Item*> last;
  last.reserve(items.size());
  for (const Item& item : items) last[item.id] = &item;
  std::vector<const Item*> result;
  result.reserve(last.size());
  for (const Item& item : items) {
    if (last[item.id] == &item) result.push_back(&item);
  }
  return result;
}

std::vector<absl::string_view> Distinct(absl::Span<const std::string> ids) {
  std::vector<absl::string_view> result(ids.begin(), ids.end());
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

  absl::StatusOr<std::vector<bool>> Put(absl::Span<const Item> items);
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids);
  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const;
  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const;
  int64_t count() const { return count_.load(std::memory_order_relaxed); }
  int64_t disk_bytes() const;

  // A write found the disk full; every later one will fail.
  bool disk_full() const { return disk_full_; }

 private:
  // What a lookup brought for one id: no value means that there is none.
  using Values = std::vector<std::optional<rocksdb::PinnableSlice>>;

  explicit Database(const RocksdbItemStoreOptions& options)
      : path_(options.path),
        dimension_(options.dimension),
        sync_(options.sync == SyncMode::kEveryWrite) {}

  // Steps of Open().
  absl::Status CheckFamilies(const RocksdbItemStoreOptions& options) const;
  absl::Status OpenFamilies(const RocksdbItemStoreOptions& options);
  absl::Status ReadOrCreateMeta();
  absl::Status CreateMeta();
  absl::Status ReadMeta(absl::string_view format_version);
  absl::StatusOr<std::string> ReadMetaValue(absl::string_view key) const;
  absl::StatusOr<int64_t> ReadMetaNumber(absl::string_view key) const;

  absl::Status AddToBatch(const Item& item, absl::Time create_time,
                          rocksdb::WriteBatch& batch) const;
  // Writes `batch` and the change of the number of items, as one.
  absl::Status Write(rocksdb::WriteBatch& batch, int64_t count_change);

  absl::StatusOr<Values> Lookup(const rocksdb::ReadOptions& options,
                                Family family,
                                absl::Span<const absl::string_view> ids) const;
  absl::StatusOr<Item> Decode(absl::string_view id,
                              absl::string_view header) const;
  absl::StatusOr<std::vector<float>> DecodeEmbedding(
      absl::string_view id, absl::string_view bytes) const;

  const std::string path_;
  const int64_t dimension_;
  const bool sync_;

  std::unique_ptr<rocksdb::DB> db_;
  std::array<rocksdb::ColumnFamilyHandle*, kFamilies> families_{};

  IdLocks locks_;
  std::atomic<int64_t> count_ = 0;
  std::atomic<bool> disk_full_ = false;
};

absl::StatusOr<std::unique_ptr<RocksdbItemStore::Database>>
RocksdbItemStore::Database::Open(const RocksdbItemStoreOptions& options) {
  QUERN_RETURN_IF_ERROR(CheckOptions(options));
  QUERN_RETURN_IF_ERROR(EnsureDirectory(options.path));
  auto database = std::unique_ptr<Database>(new Database(options));
  QUERN_RETURN_IF_ERROR(database->CheckFamilies(options));
  QUERN_RETURN_IF_ERROR(database->OpenFamilies(options));
  QUERN_RETURN_IF_ERROR(database->ReadOrCreateMeta());
  return database;
}

RocksdbItemStore::Database::~Database() {
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    if (family != nullptr) db_->DestroyColumnFamilyHandle(family);
  }
}

// RocksDB refuses to open a store with families that it is not told of; a newer
// version may have more of them.
absl::Status RocksdbItemStore::Database::CheckFamilies(
    const RocksdbItemStoreOptions& options) const {
  std::error_code ignored;
  if (!std::filesystem::exists(path_ + "/CURRENT", ignored)) {
    return absl::OkStatus();
  }
  std::vector<std::string> names;
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
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::OpenFamilies(
    const RocksdbItemStoreOptions& options) {
  RocksdbItemStoreOptions with_cache = options;
  if (with_cache.block_cache == nullptr) {
    with_cache.block_cache = CreateBlockCache(kDefaultBlockCacheBytes);
  }
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(kFamilies);
  for (int family = 0; family < kFamilies; ++family) {
    descriptors.emplace_back(
        kFamilyNames[family],
        FamilyOptions(static_cast<Family>(family), with_cache));
  }
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  QUERN_RETURN_IF_ERROR(
      FromOpen(rocksdb::DB::Open(DatabaseOptions(options), path_, descriptors,
                                 &handles, &db),
               path_));
  db_.reset(db);
  std::copy(handles.begin(), handles.end(), families_.begin());
  return absl::OkStatus();
}

absl::Status RocksdbItemStore::Database::ReadOrCreateMeta() {
  absl::StatusOr<std::string> format_version = ReadMetaValue(kFormatVersionKey);
  if (absl::IsNotFound(format_version.status())) return CreateMeta();
  QUERN_RETURN_IF_ERROR(format_version.status());
  return ReadMeta(*format_version);
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
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return FromWrite(db_->Write(synced, &batch), path_);
}

absl::Status RocksdbItemStore::Database::ReadMeta(
    absl::string_view format_version) {
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
  return absl::OkStatus();
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

absl::StatusOr<std::vector<bool>> RocksdbItemStore::Database::Put(
    absl::Span<const Item> items) {
  QUERN_RETURN_IF_ERROR(CheckItems(items, dimension_));
  if (items.empty()) return std::vector<bool>();
  const std::vector<const Item*> distinct = LastOfEachId(items);
  std::vector<absl::string_view> ids;
  ids.reserve(distinct.size());
  for (const Item* item : distinct) ids.push_back(item->id);

  const IdLocks::Holder holder(locks_, ids);
  QUERN_ASSIGN_OR_RETURN(Values headers,
                         Lookup(rocksdb::ReadOptions(), kItems, ids));
  rocksdb::WriteBatch batch;
  absl::flat_hash_set<absl::string_view> created;
  for (size_t i = 0; i < distinct.size(); ++i) {
    absl::Time create_time = distinct[i]->create_time;
    if (headers[i].has_value()) {
      QUERN_ASSIGN_OR_RETURN(Item known, Decode(ids[i], ToView(*headers[i])));
      create_time = known.create_time;
    } else {
      created.insert(ids[i]);
    }
    QUERN_RETURN_IF_ERROR(AddToBatch(*distinct[i], create_time, batch));
  }
  QUERN_RETURN_IF_ERROR(Write(batch, static_cast<int64_t>(created.size())));

  std::vector<bool> is_new;
  is_new.reserve(items.size());
  for (const Item& item : items) is_new.push_back(created.erase(item.id) > 0);
  return is_new;
}

absl::Status RocksdbItemStore::Database::AddToBatch(
    const Item& item, absl::Time create_time,
    rocksdb::WriteBatch& batch) const {
  const std::array<rocksdb::Status, 3> added = {
      batch.Put(families_[kItems], item.id, EncodeHeader(item, create_time)),
      batch.Put(families_[kPayloads], item.id, item.payload),
      batch.Put(families_[kVectors], item.id, EncodeVector(item.embedding))};
  for (const rocksdb::Status& status : added) {
    QUERN_RETURN_IF_ERROR(FromWrite(status, path_));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RocksdbItemStore::Database::Delete(
    absl::Span<const std::string> ids) {
  const std::vector<absl::string_view> distinct = Distinct(ids);
  const IdLocks::Holder holder(locks_, distinct);
  QUERN_ASSIGN_OR_RETURN(Values headers,
                         Lookup(rocksdb::ReadOptions(), kItems, distinct));
  rocksdb::WriteBatch batch;
  int64_t deleted = 0;
  for (size_t i = 0; i < distinct.size(); ++i) {
    if (!headers[i].has_value()) continue;
    ++deleted;
    for (Family family : {kItems, kPayloads, kVectors}) {
      QUERN_RETURN_IF_ERROR(FromWrite(
          batch.Delete(families_[family], ToSlice(distinct[i])), path_));
    }
  }
  if (deleted == 0) return 0;
  QUERN_RETURN_IF_ERROR(Write(batch, -deleted));
  return deleted;
}

absl::Status RocksdbItemStore::Database::Write(rocksdb::WriteBatch& batch,
                                               int64_t count_change) {
  if (count_change != 0) {
    QUERN_RETURN_IF_ERROR(
        FromWrite(batch.Merge(families_[kMeta], ToSlice(kCountKey),
                              EncodeCount(count_change)),
                  path_));
  }
  rocksdb::WriteOptions options;
  options.sync = sync_;
  const absl::Status status = FromWrite(db_->Write(options, &batch), path_);
  if (absl::IsResourceExhausted(status)) disk_full_ = true;
  QUERN_RETURN_IF_ERROR(status);
  count_.fetch_add(count_change, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::StatusOr<RocksdbItemStore::Database::Values>
RocksdbItemStore::Database::Lookup(
    const rocksdb::ReadOptions& options, Family family,
    absl::Span<const absl::string_view> ids) const {
  std::vector<rocksdb::Slice> keys;
  keys.reserve(ids.size());
  for (absl::string_view id : ids) keys.push_back(ToSlice(id));
  std::vector<rocksdb::PinnableSlice> found(keys.size());
  std::vector<rocksdb::Status> statuses(keys.size());
  db_->MultiGet(options, families_[family], keys.size(), keys.data(),
                found.data(), statuses.data());

  Values values(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (statuses[i].IsNotFound()) continue;
    QUERN_RETURN_IF_ERROR(Annotate(FromRead(statuses[i], path_),
                                   absl::StrCat("item ", Quoted(ids[i]))));
    values[i] = std::move(found[i]);
  }
  return values;
}

absl::StatusOr<Item> RocksdbItemStore::Database::Decode(
    absl::string_view id, absl::string_view header) const {
  absl::StatusOr<Item> item = DecodeHeader(header);
  if (!item.ok()) return DamagedItem(path_, id, item.status().message());
  item->id.assign(id.data(), id.size());
  return item;
}

absl::StatusOr<std::vector<float>> RocksdbItemStore::Database::DecodeEmbedding(
    absl::string_view id, absl::string_view bytes) const {
  absl::StatusOr<std::vector<float>> embedding =
      DecodeVector(bytes, dimension_);
  if (!embedding.ok()) {
    return DamagedItem(path_, id, embedding.status().message());
  }
  return embedding;
}

absl::StatusOr<std::vector<std::optional<Item>>>
RocksdbItemStore::Database::Get(absl::Span<const std::string> ids,
                                ItemParts parts) const {
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

  std::vector<std::optional<Item>> items(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!headers[i].has_value()) continue;
    QUERN_ASSIGN_OR_RETURN(items[i], Decode(ids[i], ToView(*headers[i])));
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
      QUERN_ASSIGN_OR_RETURN(items[i]->embedding,
                             DecodeEmbedding(ids[i], ToView(*vectors[i])));
    }
  }
  return items;
}

namespace {

// Walks a family beside the walk over the items. Every item has one record in
// each family, so both take the same steps.
class Follower {
 public:
  Follower(rocksdb::DB* db, const rocksdb::ReadOptions& options,
           rocksdb::ColumnFamilyHandle* family)
      : iterator_(db->NewIterator(options, family)) {}

  // The record of `id`, until the next call; nullopt where there is none.
  // Called with ascending ids.
  std::optional<absl::string_view> Find(const rocksdb::Slice& id) {
    if (started_ && iterator_->Valid()) iterator_->Next();
    if (!started_ || !iterator_->Valid() || iterator_->key() != id) {
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

  const auto missing = [this](const Follower& follower, absl::string_view id,
                              absl::string_view record) -> absl::Status {
    QUERN_RETURN_IF_ERROR(FromRead(follower.status(), path_));
    return DamagedItem(path_, id,
                       absl::StrCat("it has no record \"", record, "\""));
  };
  const std::unique_ptr<rocksdb::Iterator> headers(
      db_->NewIterator(options, families_[kItems]));
  headers->Seek(ToSlice(after_id));
  if (headers->Valid() && ToView(headers->key()) == after_id) headers->Next();
  for (; headers->Valid(); headers->Next()) {
    const absl::string_view id = ToView(headers->key());
    QUERN_ASSIGN_OR_RETURN(Item item, Decode(id, ToView(headers->value())));
    if (payloads.has_value()) {
      std::optional<absl::string_view> payload = payloads->Find(headers->key());
      if (!payload.has_value()) return missing(*payloads, id, "payloads");
      item.payload.assign(payload->data(), payload->size());
    }
    if (vectors.has_value()) {
      std::optional<absl::string_view> vector = vectors->Find(headers->key());
      if (!vector.has_value()) return missing(*vectors, id, "vectors");
      QUERN_ASSIGN_OR_RETURN(item.embedding, DecodeEmbedding(id, *vector));
    }
    if (!visit(std::move(item))) return absl::OkStatus();
  }
  return FromRead(headers->status(), path_);
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
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<Database> database,
      Guard(kLibrary, [&options] { return Database::Open(options); }));
  return std::unique_ptr<RocksdbItemStore>(
      new RocksdbItemStore(options, std::move(database)));
}

RocksdbItemStore::RocksdbItemStore(const RocksdbItemStoreOptions& options,
                                   std::unique_ptr<Database> database)
    : options_(options), database_(std::move(database)) {}

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
  absl::StatusOr<std::unique_ptr<Database>> opened = Database::Open(options_);
  closed_ = opened.status();
  if (opened.ok()) database_ = *std::move(opened);
  return closed_;
}

absl::StatusOr<std::vector<bool>> RocksdbItemStore::Put(
    absl::Span<const Item> items) {
  QUERN_RETURN_IF_ERROR(
      Guard(kLibrary, [this] { return RecoverFromFullDisk(); }));
  return With([&](Database& database) { return database.Put(items); });
}

absl::StatusOr<int64_t> RocksdbItemStore::Delete(
    absl::Span<const std::string> ids) {
  QUERN_RETURN_IF_ERROR(
      Guard(kLibrary, [this] { return RecoverFromFullDisk(); }));
  return With([&](Database& database) { return database.Delete(ids); });
}

absl::StatusOr<std::vector<std::optional<Item>>> RocksdbItemStore::Get(
    absl::Span<const std::string> ids, ItemParts parts) const {
  return With([&](Database& database) { return database.Get(ids, parts); });
}

absl::Status RocksdbItemStore::Scan(
    absl::string_view after_id, ItemParts parts,
    const std::function<bool(Item)>& visit) const {
  return With([&](Database& database) {
    return database.Scan(after_id, parts, visit);
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
