#include "engine/query/index_sync.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/time/clock.h"

#include "engine/base/matrix.h"
#include "engine/base/status_macros.h"
#include "engine/query/collection_settings.h"

namespace quern {
namespace {

// Rows handed to the index at once while it is filled.
constexpr size_t kFillRows = 4096;
// Under the mutex that writers wait for.
constexpr size_t kRepairRows = 256;
// More items are filled in while searches go on.
constexpr int64_t kFillAtOnce = 50'000;
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
constexpr absl::Duration kPoll = absl::Milliseconds(5);

}  // namespace

std::vector<FieldDeclaration> FieldsOf(const v1::Collection& record) {
  absl::StatusOr<CollectionSettings> settings = SettingsOf(record);
  return settings.ok() ? std::move(settings->fields)
                       : std::vector<FieldDeclaration>();
}

FieldValues FieldValuesOf(const Item& item,
                          absl::Span<const FieldDeclaration> fields) {
  if (!fields.empty()) {
    absl::StatusOr<FieldValues> read =
        ReadFields(item.payload, item.modality, fields);
    if (read.ok()) return *std::move(read);
  }
  return {.modality = item.modality};
}

IndexSync::IndexSync(const ItemStore* store, VectorIndex* index,
                     const v1::Collection& record, absl::Mutex* write_mutex)
    : store_(*store),
      index_(*index),
      dimension_(record.dimension()),
      fields_(FieldsOf(record)),
      write_mutex_(*write_mutex) {}

IndexSync::~IndexSync() {
  stopping_ = true;
  if (repair_.joinable()) repair_.join();
}

absl::Status IndexSync::CatchUp() {
  const uint64_t newest = store_.last_sequence();
  const uint64_t seen = index_.applied_sequence();
  // An index without anything has no place in the log to go on from: a store of
  // an older format has items that its log does not know.
  if (seen == 0 || seen < store_.trimmed_sequence()) {
    if (store_.count() > kFillAtOnce) {
      if (!index_.incomplete()) {
        index_.MarkIncomplete("the index is being built from the store");
      }
      return absl::OkStatus();
    }
    QUERN_RETURN_IF_ERROR(FillFromScan());
    if (index_.incomplete()) index_.MarkComplete();
  } else {
    QUERN_RETURN_IF_ERROR(Replay(
        [this](absl::Span<const std::string> ids) { return Refresh(ids); }));
  }
  index_.MarkApplied(newest);
  return absl::OkStatus();
}

absl::Status IndexSync::Replay(
    const std::function<absl::Status(absl::Span<const std::string>)>& take) {
  absl::flat_hash_set<std::string> changed;
  absl::Status status;
  const auto flush = [&] {
    const std::vector<std::string> ids(changed.begin(), changed.end());
    changed.clear();
    return ids.empty() ? absl::OkStatus() : take(ids);
  };
  QUERN_RETURN_IF_ERROR(
      store_.ScanChanges(index_.applied_sequence(),
                         [&](uint64_t /*sequence*/, absl::string_view id) {
                           changed.insert(std::string(id));
                           if (changed.size() == kFillRows) status = flush();
                           return status.ok();
                         }));
  QUERN_RETURN_IF_ERROR(status);
  return flush();
}

void IndexSync::BeginWrite() {
  if (is_writing_) is_behind_ = true;
  is_writing_ = true;
}

absl::Status IndexSync::EndWrite(
    const std::function<absl::Status(absl::Span<const std::string>)>& take) {
  if (is_behind_) {
    QUERN_RETURN_IF_ERROR(
        Replay([&](absl::Span<const std::string> ids) -> absl::Status {
          QUERN_RETURN_IF_ERROR(Refresh(ids));
          return take(ids);
        }));
  }
  is_writing_ = false;
  is_behind_ = false;
  index_.MarkApplied(store_.last_sequence());
  return absl::OkStatus();
}

absl::Status IndexSync::FillFromScan() {
  std::vector<Item> items;
  absl::Status status;
  const auto flush = [&] {
    std::vector<const Item*> pointers;
    pointers.reserve(items.size());
    for (const Item& item : items) pointers.push_back(&item);
    absl::Status added = Add(pointers);
    items.clear();
    return added;
  };
  QUERN_RETURN_IF_ERROR(store_.Scan(
      "", {.payload = !fields_.empty(), .embedding = true}, [&](Item item) {
        items.push_back(std::move(item));
        if (items.size() == kFillRows) status = flush();
        return status.ok();
      }));
  QUERN_RETURN_IF_ERROR(status);
  return flush();
}

absl::Status IndexSync::Add(absl::Span<const Item* const> items) {
  if (items.empty()) return absl::OkStatus();
  std::vector<std::string> ids;
  std::vector<float> values;
  std::vector<FieldValues> fields;
  ids.reserve(items.size());
  values.reserve(items.size() * dimension_);
  fields.reserve(items.size());
  for (const Item* item : items) {
    ids.push_back(item->id);
    values.insert(values.end(), item->embedding.begin(), item->embedding.end());
    fields.push_back(FieldValuesOf(*item, fields_));
  }
  return index_.Upsert(ids,
                       {.data = values.data(),
                        .rows = static_cast<int64_t>(ids.size()),
                        .columns = dimension_},
                       fields);
}

absl::Status IndexSync::Refresh(absl::Span<const std::string> ids) {
  if (ids.empty()) return absl::OkStatus();
  QUERN_ASSIGN_OR_RETURN(
      const std::vector<std::optional<Item>> items,
      store_.Get(ids, {.payload = !fields_.empty(), .embedding = true}));
  std::vector<const Item*> there;
  std::vector<std::string> gone;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (items[i].has_value()) {
      there.push_back(&*items[i]);
    } else {
      gone.push_back(ids[i]);
    }
  }
  QUERN_RETURN_IF_ERROR(Add(there));
  return index_.Remove(gone);
}

bool IndexSync::SeesChange(const Item& before, const Item& after) const {
  return !fields_.empty() &&
         FieldValuesOf(before, fields_) != FieldValuesOf(after, fields_);
}

absl::Status IndexSync::TakePayload(const std::string& id) {
  return fields_.empty() ? absl::OkStatus() : Refresh({id});
}

absl::Status IndexSync::Remove(absl::Span<const std::string> ids) {
  return index_.Remove(ids);
}

void IndexSync::StartRepair() {
  if (!index_.incomplete()) return;
  repair_ = std::thread([this] {
    while (!stopping_ && !Repair().ok()) absl::SleepFor(kRetryAfter);
  });
}

absl::Status IndexSync::Repair() {
  std::string after_id;
  while (!stopping_) {
    std::vector<std::string> missing;
    size_t seen = 0;
    QUERN_RETURN_IF_ERROR(
        store_.Scan(after_id, {.payload = false, .embedding = false},
                    [&](const Item& item) {
                      after_id = item.id;
                      if (!index_.Contains(item.id)) missing.push_back(item.id);
                      return ++seen < kFillRows &&
                             missing.size() < kRepairRows && !stopping_;
                    }));
    if (seen == 0) {
      absl::MutexLock lock(&write_mutex_);
      index_.MarkComplete();
      if (!is_writing_) index_.MarkApplied(store_.last_sequence());
      return absl::OkStatus();
    }
    while (index_.is_full() && !stopping_) absl::SleepFor(kPoll);
    // Read again: it may have been written or deleted since it was scanned.
    absl::MutexLock lock(&write_mutex_);
    QUERN_RETURN_IF_ERROR(Refresh(missing));
  }
  return absl::OkStatus();
}

}  // namespace quern
