#include "engine/query/collection.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/matrix.h"
#include "engine/base/status_macros.h"
#include "engine/index/check_vector.h"

namespace quern {
namespace {

// Rows handed to the index at once while it is built from the store.
constexpr int64_t kLoadBatchRows = 4096;

// Collects items row by row and gives them to an index in batches.
class IndexLoader {
 public:
  IndexLoader(VectorIndex* index, int64_t dimension)
      : index_(index), dimension_(dimension) {}

  absl::Status Add(Item item) {
    ids_.push_back(std::move(item.id));
    values_.insert(values_.end(), item.embedding.begin(), item.embedding.end());
    return static_cast<int64_t>(ids_.size()) < kLoadBatchRows ? absl::OkStatus()
                                                              : Flush();
  }

  absl::Status Flush() {
    if (ids_.empty()) return absl::OkStatus();
    QUERN_RETURN_IF_ERROR(index_->Upsert(
        ids_, MatrixView{.data = values_.data(),
                         .rows = static_cast<int64_t>(ids_.size()),
                         .columns = dimension_}));
    ids_.clear();
    values_.clear();
    return absl::OkStatus();
  }

 private:
  VectorIndex* const index_;
  const int64_t dimension_;
  std::vector<std::string> ids_;
  std::vector<float> values_;  // ids_.size() x dimension_
};

absl::Status LoadIndex(const ItemStore& store, int64_t dimension,
                       VectorIndex* index) {
  IndexLoader loader(index, dimension);
  absl::Status status;
  QUERN_RETURN_IF_ERROR(
      store.Scan("", {.payload = false, .embedding = true}, [&](Item item) {
        status = loader.Add(std::move(item));
        return status.ok();
      }));
  QUERN_RETURN_IF_ERROR(status);
  return loader.Flush();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collection>> Collection::Open(
    const std::string& directory, v1::Collection record,
    const CollectionFactories& factories) {
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<ItemStore> store,
      factories.open_store(absl::StrCat(directory, "/items"), record));
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<VectorIndex> index,
                         factories.create_index(record));
  QUERN_RETURN_IF_ERROR(LoadIndex(*store, record.dimension(), index.get()));
  return std::unique_ptr<Collection>(new Collection(
      directory, std::move(record), std::move(store), std::move(index)));
}

Collection::Collection(std::string directory, v1::Collection record,
                       std::unique_ptr<ItemStore> store,
                       std::unique_ptr<VectorIndex> index)
    : directory_(std::move(directory)),
      record_(std::move(record)),
      store_(std::move(store)),
      index_(std::move(index)) {}

Collection::~Collection() {
  bool dropped = false;
  {
    absl::MutexLock lock(&write_mutex_);
    dropped = dropped_;
  }
  store_.reset();
  if (!dropped) return;
  // Without its record the folder counts as deleted; what cannot be removed now
  // is removed when the catalog is opened next.
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

Metric MetricOf(const v1::Collection& record) {
  return record.metric() == v1::METRIC_DOT_PRODUCT ? Metric::kDotProduct
                                                   : Metric::kCosine;
}

v1::Collection Collection::Describe() const {
  v1::Collection described = record_;
  v1::CollectionStatus& status = *described.mutable_status();
  status.set_state(v1::CollectionStatus::STATE_READY);
  status.set_item_count(index_->size());
  status.set_disk_bytes(store_->disk_bytes());
  status.set_memory_bytes(index_->memory_bytes());
  status.set_index_version(index_version());
  v1::ShardStatus& shard = *status.add_shards();
  shard.set_item_count(index_->size());
  shard.set_kind(v1::IndexConfig::KIND_EXACT);
  shard.set_measured_recall(1);
  shard.set_device("cpu");
  shard.set_available(true);
  return described;
}

absl::StatusOr<std::vector<Collection::Written>> Collection::Upsert(
    absl::Span<const Item> items) {
  std::vector<std::string> ids;
  std::vector<float> values;
  ids.reserve(items.size());
  values.reserve(items.size() * dimension());
  for (const Item& item : items) {
    ids.push_back(item.id);
    values.insert(values.end(), item.embedding.begin(), item.embedding.end());
  }

  absl::MutexLock lock(&write_mutex_);
  if (dropped_) return NotFound("collection", name());
  QUERN_ASSIGN_OR_RETURN(const std::vector<PutResult> results,
                         store_->Put(items));
  // The store took these vectors, so only memory can fail here; the index is
  // then behind the store until the next start.
  QUERN_RETURN_IF_ERROR(
      index_->Upsert(ids, MatrixView{.data = values.data(),
                                     .rows = static_cast<int64_t>(ids.size()),
                                     .columns = dimension()}));
  ++index_version_;

  std::vector<Written> written;
  written.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    written.push_back(
        {.created = results[i].created, .update_time = items[i].update_time});
  }
  return written;
}

absl::StatusOr<int64_t> Collection::Delete(absl::Span<const std::string> ids) {
  absl::MutexLock lock(&write_mutex_);
  if (dropped_) return NotFound("collection", name());
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted, store_->Delete(ids));
  QUERN_RETURN_IF_ERROR(index_->Remove(ids));
  if (deleted > 0) ++index_version_;
  return deleted;
}

void Collection::Drop() {
  absl::MutexLock lock(&write_mutex_);
  dropped_ = true;
}

absl::Status CheckVector(absl::Span<const float> vector, int64_t dimension,
                         Metric metric) {
  if (static_cast<int64_t>(vector.size()) != dimension) {
    return absl::InvalidArgumentError(absl::StrCat("has ", vector.size(),
                                                   " values; the collection's ",
                                                   "dimension is ", dimension));
  }
  return CheckedNorm(vector, metric).status();
}

}  // namespace quern
