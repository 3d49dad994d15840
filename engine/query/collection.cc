#include "engine/query/collection.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/filter/field_values.h"
#include "engine/index/check_vector.h"
#include "engine/query/parts_settings.h"

namespace quern {
namespace {

// Items deleted, or removed because they have expired, in one step: bounds how
// long other writes wait.
constexpr size_t kRemoveItems = 256;

// Of upserts that are written together, which copies them.
constexpr size_t kMaxBytesTogether = 1 << 20;

// The mark of an error that MustWait() knows.
constexpr absl::string_view kMustWait = "quern.must_wait";

absl::StatusOr<bool> ItemMatches(const Item& item, const Filter& filter) {
  absl::StatusOr<FieldValues> values =
      ReadFields(item.payload, item.modality, filter.fields());
  if (!values.ok()) {
    return absl::DataLossError(
        absl::StrCat("the payload of item ", Quoted(item.id), " is damaged"));
  }
  return Matches(filter, *values);
}

v1::IndexConfig::Kind EncodeKind(IndexKind kind) {
  switch (kind) {
    case IndexKind::kHnsw:
      return v1::IndexConfig::KIND_HNSW;
    case IndexKind::kIvfPq:
      return v1::IndexConfig::KIND_IVF_PQ;
    default:
      return v1::IndexConfig::KIND_EXACT;
  }
}

void DescribeShard(const ShardInfo& info, v1::ShardStatus* shard) {
  shard->set_item_count(info.item_count);
  shard->set_kind(EncodeKind(info.kind));
  if (info.measured_recall.has_value()) {
    shard->set_measured_recall(*info.measured_recall);
  }
  shard->set_device(info.device);
  shard->set_available(info.available);
  shard->set_message(info.message);
  shard->set_effort(static_cast<int32_t>(info.effort));
  shard->set_rerank_depth(static_cast<int32_t>(info.depth));
  shard->set_stored_queries(static_cast<int32_t>(info.stored_queries));
  shard->set_real_queries(static_cast<int32_t>(info.real_queries));
}

size_t BytesOf(absl::Span<const Item> items) {
  size_t bytes = 0;
  for (const Item& item : items) {
    bytes += sizeof(Item) + item.payload.size() + item.parts.size() +
             item.media.size() + item.embedding.size() * sizeof(float);
  }
  return bytes;
}

absl::StatusOr<std::vector<PutResult>> PartOf(
    const absl::StatusOr<std::vector<PutResult>>& results, size_t begin,
    size_t size) {
  if (!results.ok()) return results.status();
  const auto part = absl::MakeConstSpan(*results).subspan(begin, size);
  return std::vector<PutResult>(part.begin(), part.end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collection>> Collection::Open(
    const std::string& directory, v1::Collection record,
    const CollectionFactories& factories) {
  QUERN_ASSIGN_OR_RETURN(CollectionSettings settings, SettingsOf(record));
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<ItemStore> store,
      factories.open_store(absl::StrCat(directory, "/items"), record));
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<VectorIndex> index,
      factories.create_index(record, absl::StrCat(directory, "/index"),
                             store.get()));
  std::unique_ptr<Collection> collection(
      new Collection(directory, std::move(record), std::move(settings),
                     std::move(store), std::move(index), factories.crew));
  QUERN_RETURN_IF_ERROR(collection->sync_->CatchUp());
  collection->sync_->StartRepair();
  collection->index_version_ =
      static_cast<int64_t>(collection->store_->last_sequence());
  collection->FollowPartsSettings();
  // The sweep comes later, and a replica's first search may come before it.
  absl::StatusOr<bool> more = !collection->store_->write_status().ok();
  while (more.ok() && *more) more = collection->HideExpired();
  return collection;
}

Collection::Collection(std::string directory, v1::Collection record,
                       CollectionSettings settings,
                       std::unique_ptr<ItemStore> store,
                       std::unique_ptr<VectorIndex> index,
                       std::shared_ptr<WorkCrew> crew)
    : directory_(std::move(directory)),
      record_(std::move(record)),
      store_(std::move(store)),
      index_(std::move(index)),
      crew_(std::move(crew)),
      sync_(std::make_unique<IndexSync>(store_.get(), index_.get(), record_,
                                        &write_mutex_)),
      settings_(
          std::make_shared<const CollectionSettings>(std::move(settings))) {}

Collection::~Collection() {
  part_sync_.reset();
  sync_.reset();
  index_.reset();
  store_.reset();
  if (!dropped_) return;
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
  v1::Collection described = settings()->record;
  v1::CollectionStatus& status = *described.mutable_status();
  const absl::Status writes = store_->write_status();
  status.set_state(writes.ok() ? v1::CollectionStatus::STATE_READY
                               : v1::CollectionStatus::STATE_READ_ONLY);
  status.set_message(std::string(writes.message()));
  status.set_item_count(index_->size());
  status.set_disk_bytes(store_->disk_bytes() + index_->disk_bytes());
  status.set_memory_bytes(index_->memory_bytes());
  if (const auto parts = part_index(); parts != nullptr) {
    status.set_memory_bytes(status.memory_bytes() + parts->memory_bytes());
    if (writes.ok() && !parts->missing().empty()) {
      status.set_state(v1::CollectionStatus::STATE_LOADING);
      status.set_message(parts->missing());
    }
  }
  status.set_index_version(index_version());
  for (const ShardInfo& info : index_->shards()) {
    DescribeShard(info, status.add_shards());
  }
  return described;
}

std::shared_ptr<const CollectionSettings> Collection::settings() const {
  absl::MutexLock lock(&settings_mutex_);
  return settings_;
}

void Collection::set_settings(CollectionSettings settings) {
  auto changed =
      std::make_shared<const CollectionSettings>(std::move(settings));
  {
    absl::MutexLock lock(&settings_mutex_);
    settings_ = std::move(changed);
  }
  FollowPartsSettings();
}

std::shared_ptr<const PartIndex> Collection::part_index() const {
  absl::MutexLock lock(&settings_mutex_);
  return part_index_;
}

void Collection::FollowPartsSettings() {
  const absl::StatusOr<PartsSettings> parts =
      PartsSettingsOf(settings()->record);
  const bool is_searchable = parts.ok() && parts->is_searchable;
  std::unique_ptr<PartSync> ended;  // After the mutex, which its thread takes.
  PartSync* begun = nullptr;
  {
    absl::MutexLock lock(&write_mutex_);
    if (is_searchable == (part_sync_ != nullptr)) return;
    ended = std::move(part_sync_);
    if (is_searchable) {
      part_sync_ =
          std::make_unique<PartSync>(PartIndexOptions{.dimension = dimension(),
                                                      .fields = index_fields(),
                                                      .crew = crew_},
                                     store_.get(), &write_mutex_, [this] {
                                       write_mutex_.AssertHeld();
                                       CountChange();
                                     });
      begun = part_sync_.get();
    }
    CountChange();
    absl::MutexLock settings_lock(&settings_mutex_);
    part_index_ = begun == nullptr ? nullptr : begun->index();
  }
  if (begun != nullptr) begun->Fill();
}

absl::StatusOr<std::vector<PutResult>> Collection::Upsert(
    absl::Span<const Item> items) {
  WaitingUpsert mine{.items = items};
  {
    absl::MutexLock lock(&upserts_mutex_);
    upserts_.push_back(&mine);
  }
  absl::MutexLock lock(&write_mutex_);
  while (!mine.results.has_value()) UpsertWaiting();
  return *std::move(mine.results);
}

void Collection::UpsertWaiting() {
  std::vector<WaitingUpsert*> taken;
  size_t bytes = 0;
  {
    absl::MutexLock lock(&upserts_mutex_);
    do {
      taken.push_back(upserts_.front());
      upserts_.pop_front();
      bytes += BytesOf(taken.back()->items);
    } while (!upserts_.empty() &&
             bytes + BytesOf(upserts_.front()->items) <= kMaxBytesTogether);
  }
  if (taken.size() > 1) {
    std::vector<Item> items;
    for (const WaitingUpsert* upsert : taken) {
      items.insert(items.end(), upsert->items.begin(), upsert->items.end());
    }
    const absl::StatusOr<std::vector<PutResult>> results = UpsertHeld(items);
    // What is wrong with one is nothing to the others.
    if (!absl::IsInvalidArgument(results.status())) {
      size_t at = 0;
      for (WaitingUpsert* upsert : taken) {
        upsert->results = PartOf(results, at, upsert->items.size());
        at += upsert->items.size();
      }
      return;
    }
  }
  for (WaitingUpsert* upsert : taken) {
    upsert->results = UpsertHeld(upsert->items);
  }
}

absl::StatusOr<std::vector<PutResult>> Collection::UpsertHeld(
    absl::Span<const Item> items) {
  {
    absl::MutexLock place_lock(&place_mutex_);
    if (holds_upserts_ || successor_ != nullptr) {
      absl::Status status = absl::UnavailableError(
          absl::StrCat("collection ", Quoted(name()), " changes its model"));
      status.SetPayload(kMustWait, absl::Cord());
      return status;
    }
  }
  if (dropped_) return NotFound("collection", name());
  sync_->BeginWrite();
  QUERN_ASSIGN_OR_RETURN(std::vector<PutResult> results, store_->Put(items));
  std::vector<const Item*> taken;
  for (size_t i = 0; i < items.size(); ++i) {
    if (results[i].status.ok()) taken.push_back(&items[i]);
  }
  // The store took these vectors, so only memory can fail here; the index is
  // then behind the store until the next write.
  QUERN_RETURN_IF_ERROR(AddHeld(taken));
  QUERN_RETURN_IF_ERROR(EndWrite());
  if (!taken.empty()) CountChange();
  return results;
}

absl::StatusOr<Item> Collection::Update(
    const std::string& id, const std::function<absl::Status(Item&)>& change) {
  return Locked([&](Collection& it) -> absl::StatusOr<Item> {
    it.write_mutex_.AssertHeld();
    bool is_seen = false;
    const auto begin = [&](Item& item) -> absl::Status {
      const Item before = item;
      QUERN_RETURN_IF_ERROR(change(item));
      is_seen = it.sync_->SeesChange(before, item);
      it.sync_->BeginWrite();
      return absl::OkStatus();
    };
    QUERN_ASSIGN_OR_RETURN(Item item, it.store_->Update(id, begin));
    if (is_seen) QUERN_RETURN_IF_ERROR(it.sync_->TakePayload(id));
    if (is_seen && it.part_sync_ != nullptr) {
      QUERN_RETURN_IF_ERROR(it.part_sync_->TakePayload(id));
    }
    QUERN_RETURN_IF_ERROR(it.EndWrite());
    it.CountChange();
    return item;
  });
}

template <typename Write>
auto Collection::Locked(const Write& write) -> decltype(write(*this)) {
  std::shared_ptr<Collection> next;
  {
    absl::MutexLock lock(&write_mutex_);
    next = successor();
    if (next == nullptr) {
      if (dropped_) return NotFound("collection", name());
      return write(*this);
    }
  }
  return next->Locked(write);
}

absl::Status Collection::Scan(const RequestContext& context,
                              absl::string_view after_id, ItemParts parts,
                              const Filter* filter,
                              const std::function<bool(Item)>& visit) const {
  ItemParts read = parts;
  if (filter != nullptr) read.payload = true;
  absl::Status status;
  QUERN_RETURN_IF_ERROR(store_->Scan(after_id, read, [&](Item item) {
    status = context.Check("the next item");
    if (!status.ok()) return false;
    if (filter != nullptr) {
      const absl::StatusOr<bool> matches = ItemMatches(item, *filter);
      status = matches.status();
      if (!matches.ok()) return false;
      if (!*matches) return true;
      if (!parts.payload) item.payload.clear();
    }
    return visit(std::move(item));
  }));
  return status;
}

absl::StatusOr<int64_t> Collection::DeleteMatching(
    const RequestContext& context, const Filter& filter) {
  int64_t deleted = 0;
  std::string after_id;
  while (true) {
    std::vector<std::string> found;
    QUERN_RETURN_IF_ERROR(Scan(context, after_id, {.payload = false}, &filter,
                               [&found](const Item& item) {
                                 found.push_back(item.id);
                                 return found.size() < kRemoveItems;
                               }));
    if (found.empty()) return deleted;
    after_id = found.back();

    // Written again since it was found, an item may not match any more.
    const auto delete_matching =
        [&](Collection& it) -> absl::StatusOr<int64_t> {
      QUERN_ASSIGN_OR_RETURN(
          const std::vector<std::optional<Item>> items,
          it.store_->Get(found, {.payload = true, .embedding = false}));
      std::vector<std::string> ids;
      for (const std::optional<Item>& item : items) {
        if (!item.has_value()) continue;
        QUERN_ASSIGN_OR_RETURN(const bool matches, ItemMatches(*item, filter));
        if (matches) ids.push_back(item->id);
      }
      it.write_mutex_.AssertHeld();
      return it.DeleteHeld(ids);
    };
    QUERN_ASSIGN_OR_RETURN(const int64_t gone, Locked(delete_matching));
    deleted += gone;
    // What is written from now on is not found here any more.
    if (const auto next = successor(); next != nullptr) {
      QUERN_ASSIGN_OR_RETURN(const int64_t rest,
                             next->DeleteMatching(context, filter));
      return deleted + rest;
    }
  }
}

absl::StatusOr<bool> Collection::RemoveExpired() {
  return Locked([](Collection& it) -> absl::StatusOr<bool> {
    it.write_mutex_.AssertHeld();
    it.sync_->BeginWrite();
    const absl::StatusOr<std::vector<std::string>> ids =
        it.store_->RemoveExpired(kRemoveItems);
    QUERN_RETURN_IF_ERROR(ids.status());
    QUERN_RETURN_IF_ERROR(it.RemoveHeld(*ids));
    QUERN_RETURN_IF_ERROR(it.EndWrite());
    if (!ids->empty()) it.CountChange();
    return ids->size() == kRemoveItems;
  });
}

absl::StatusOr<bool> Collection::HideExpired() {
  return Locked([](Collection& it) -> absl::StatusOr<bool> {
    it.write_mutex_.AssertHeld();
    QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                           it.store_->ListExpired(&it.hidden_, kRemoveItems));
    if (ids.empty()) return false;
    QUERN_RETURN_IF_ERROR(it.RemoveHeld(ids));
    it.CountChange();
    return ids.size() == kRemoveItems;
  });
}

absl::StatusOr<int64_t> Collection::Delete(absl::Span<const std::string> ids) {
  return Locked([&](Collection& it) {
    it.write_mutex_.AssertHeld();
    return it.DeleteHeld(ids);
  });
}

absl::StatusOr<int64_t> Collection::DeleteHeld(
    absl::Span<const std::string> ids) {
  sync_->BeginWrite();
  QUERN_ASSIGN_OR_RETURN(const int64_t deleted, store_->Delete(ids));
  QUERN_RETURN_IF_ERROR(RemoveHeld(ids));
  QUERN_RETURN_IF_ERROR(EndWrite());
  if (deleted > 0) CountChange();
  return deleted;
}

absl::Status Collection::AddHeld(absl::Span<const Item* const> items) {
  if (items.empty()) return absl::OkStatus();
  QUERN_RETURN_IF_ERROR(sync_->Add(items));
  return part_sync_ == nullptr ? absl::OkStatus() : part_sync_->Add(items);
}

absl::Status Collection::RemoveHeld(absl::Span<const std::string> ids) {
  if (ids.empty()) return absl::OkStatus();
  if (part_sync_ != nullptr) part_sync_->Remove(ids);
  return sync_->Remove(ids);
}

absl::Status Collection::EndWrite() {
  return sync_->EndWrite([this](absl::Span<const std::string> ids) {
    write_mutex_.AssertHeld();
    CountChange();
    return part_sync_ == nullptr ? absl::OkStatus() : part_sync_->Refresh(ids);
  });
}

void Collection::Drop() {
  absl::MutexLock lock(&write_mutex_);
  dropped_ = true;
}

absl::Status Collection::Import(absl::Span<const Item> items,
                                absl::Span<const std::string> removed,
                                uint64_t sequence) {
  std::vector<const Item*> pointers;
  pointers.reserve(items.size());
  for (const Item& item : items) pointers.push_back(&item);
  absl::MutexLock lock(&write_mutex_);
  QUERN_RETURN_IF_ERROR(store_->Import(items, removed, sequence));
  QUERN_RETURN_IF_ERROR(AddHeld(pointers));
  return RemoveHeld(removed);
}

void Collection::HoldUpserts() {
  absl::MutexLock lock(&write_mutex_);
  absl::MutexLock place_lock(&place_mutex_);
  holds_upserts_ = true;
}

void Collection::TakeUpserts() {
  std::vector<std::function<void()>> waiting;
  {
    absl::MutexLock lock(&place_mutex_);
    holds_upserts_ = false;
    waiting = std::exchange(waiting_, {});
  }
  for (const std::function<void()>& resume : waiting) resume();
}

bool Collection::MustWait(const absl::Status& status) {
  return status.GetPayload(kMustWait).has_value();
}

void Collection::AwaitUpserts(std::function<void()> resume) {
  {
    absl::MutexLock lock(&place_mutex_);
    if (holds_upserts_) {
      waiting_.push_back(std::move(resume));
      return;
    }
  }
  resume();
}

absl::Status Collection::ReplaceBy(
    const std::shared_ptr<Collection>& successor,
    const std::function<absl::Status()>& commit) {
  absl::MutexLock lock(&write_mutex_);
  if (dropped_) return NotFound("collection", name());
  // A page of before must not be taken for one of the successor.
  successor->index_version_ = index_version_ + 1;
  QUERN_RETURN_IF_ERROR(commit());
  dropped_ = true;
  absl::MutexLock place_lock(&place_mutex_);
  successor_ = successor;
  return absl::OkStatus();
}

void Collection::CountChange() {
  index_version_ = std::max(index_version_ + 1,
                            static_cast<int64_t>(store_->last_sequence()));
}

std::shared_ptr<Collection> Collection::successor() const {
  absl::MutexLock lock(&place_mutex_);
  return successor_;
}

std::shared_ptr<Collection> Collection::Newest(
    std::shared_ptr<Collection> collection) {
  while (auto next = collection->successor()) collection = std::move(next);
  return collection;
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
