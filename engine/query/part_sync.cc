#include "engine/query/part_sync.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "engine/base/status_macros.h"
#include "engine/fine/part_windows.h"
#include "engine/query/index_sync.h"
#include "quern/v1/common.pb.h"

namespace quern {
namespace {

constexpr absl::string_view kFilling =
    "the index of parts is being made from the store";
// Looked at before it is asked again whether to stop.
constexpr size_t kItemsPerScan = 4096;
// Taken over under the mutex that writers wait for, some milliseconds.
constexpr size_t kItemsPerStep = 64;
// More items are read while the caller goes on.
constexpr int64_t kFillAtOnce = 2000;
// Of a tenth of a millisecond each.
constexpr int64_t kItemsWorthACrew = 8;
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

bool HasParts(const Item& item) {
  return item.modality == v1::MODALITY_IMAGE ||
         item.modality == v1::MODALITY_VIDEO;
}

}  // namespace

PartSync::PartSync(PartIndexOptions options, const ItemStore* store,
                   absl::Mutex* write_mutex, std::function<void()> filled)
    : dimension_(options.dimension),
      fields_(options.fields),
      crew_(options.crew),
      index_(std::make_shared<PartIndex>(std::move(options))),
      store_(*store),
      write_mutex_(*write_mutex),
      filled_(std::move(filled)) {
  index_->set_missing(std::string(kFilling));
}

PartSync::~PartSync() {
  stop_.Notify();
  if (filler_.joinable()) filler_.join();
}

void PartSync::Fill() {
  if (store_.count() <= kFillAtOnce && ReadStore().ok()) return;
  filler_ = std::thread([this] {
    while (!ReadStore().ok() &&
           !stop_.WaitForNotificationWithTimeout(kRetryAfter)) {
    }
  });
}

absl::Status PartSync::ReadStore() {
  {
    absl::MutexLock lock(&write_mutex_);
    lacks_ = false;
  }
  std::string after_id;
  std::vector<std::string> missing;
  while (!stop_.HasBeenNotified()) {
    QUERN_ASSIGN_OR_RETURN(const bool has_more, NextMissing(after_id, missing));
    absl::MutexLock lock(&write_mutex_);
    // Read again: it may have been written or deleted since it was seen.
    QUERN_RETURN_IF_ERROR(Refresh(missing));
    if (has_more) continue;
    if (lacks_) return absl::UnavailableError("a write failed meanwhile");
    index_->set_missing("");
    filled_();
    break;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> PartSync::NextMissing(
    std::string& after_id, std::vector<std::string>& missing) const {
  missing.clear();
  size_t seen = 0;
  QUERN_RETURN_IF_ERROR(
      store_.Scan(after_id, {.payload = false}, [&](const Item& item) {
        after_id = item.id;
        if (HasParts(item) && !index_->Contains(item.id)) {
          missing.push_back(item.id);
        }
        return ++seen < kItemsPerScan && missing.size() < kItemsPerStep;
      }));
  return seen > 0;
}

absl::Status PartSync::Refresh(absl::Span<const std::string> ids) {
  if (ids.empty()) return absl::OkStatus();
  QUERN_ASSIGN_OR_RETURN(
      const std::vector<std::optional<Item>> items,
      store_.Get(ids, {.payload = !fields_.empty(), .parts = true}));
  std::vector<const Item*> there;
  std::vector<std::string> gone;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (items[i].has_value()) {
      there.push_back(&*items[i]);
    } else {
      gone.push_back(ids[i]);
    }
  }
  index_->Remove(gone);
  return Add(there);
}

absl::Status PartSync::Add(absl::Span<const Item* const> items) {
  std::vector<const Item*> kept;
  std::vector<std::string> others;
  absl::flat_hash_set<absl::string_view> seen;
  for (size_t i = items.size(); i-- > 0;) {
    const Item& item = *items[i];
    if (!seen.insert(item.id).second) continue;
    if (HasParts(item)) {
      kept.push_back(&item);
    } else {
      others.push_back(item.id);
    }
  }
  const std::vector<Matrix> rows = RowsOfAll(kept);
  std::vector<PartRows> added;
  added.reserve(kept.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    added.push_back({.id = kept[i]->id,
                     .rows = rows[i].view(),
                     .fields = FieldValuesOf(*kept[i], fields_)});
  }
  index_->Remove(others);
  return Noted(index_->Upsert(added));
}

std::vector<Matrix> PartSync::RowsOfAll(
    absl::Span<const Item* const> items) const {
  std::vector<Matrix> rows(items.size());
  const auto read = [&](int64_t i, int /*worker*/) {
    rows[i] = RowsOf(*items[i]);
    return absl::OkStatus();
  };
  const auto count = static_cast<int64_t>(items.size());
  if (crew_ != nullptr && count >= kItemsWorthACrew) {
    const absl::Status ignored = crew_->Run(count, read);  // Never fails.
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const absl::Status ignored = read(i, 0);
    }
  }
  return rows;
}

Matrix PartSync::RowsOf(const Item& item) const {
  absl::StatusOr<Matrix> rows = SearchRows(item.parts);
  if (!rows.ok() || rows->columns() != dimension_) return Matrix();
  return *std::move(rows);
}

absl::Status PartSync::TakePayload(const std::string& id) {
  if (fields_.empty() || !index_->Contains(id)) return absl::OkStatus();
  const absl::StatusOr<std::vector<std::optional<Item>>> items =
      store_.Get({id}, {.payload = true});
  if (!items.ok()) return Noted(items.status());
  const std::optional<Item>& item = items->front();
  if (!item.has_value()) return absl::OkStatus();
  return Noted(index_->SetFields(id, FieldValuesOf(*item, fields_)));
}

absl::Status PartSync::Noted(absl::Status status) {
  if (!status.ok()) {
    lacks_ = true;
    index_->set_missing(
        absl::StrCat("the index of parts lacks items: ", status.message()));
  }
  return status;
}

}  // namespace quern
