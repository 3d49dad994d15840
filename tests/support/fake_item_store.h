#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/store/expiry.h"
#include "engine/store/item_record.h"
#include "engine/store/item_store.h"

namespace quern {

// An ItemStore in memory. Thread-safe.
class FakeItemStore final : public ItemStore {
 public:
  // `clock` must outlive the store. Null: the system's. With what Checkpoint()
  // wrote to `folder`, if it did.
  explicit FakeItemStore(int64_t dimension, const Clock* clock = nullptr,
                         const std::string& folder = "")
      : dimension_(dimension),
        expiry_(clock == nullptr ? &system_clock_ : clock) {
    std::ifstream file(folder + "/items.fake", std::ios::binary);
    std::string id;
    while (ReadPiece(file, id)) {
      std::string header, payload, vector, parts, media;
      for (std::string* piece : {&header, &payload, &vector, &parts, &media}) {
        ReadPiece(file, *piece);
      }
      Item item = DecodeHeader(header).value();
      item.id = id;
      item.payload = payload;
      item.parts = parts;
      item.media = media;
      item.embedding.resize(dimension);
      if (!DecodeVector(vector, absl::MakeSpan(item.embedding)).ok()) {
        std::abort();
      }
      last_sequence_ = std::max(last_sequence_, item.sequence);
      trimmed_sequence_ = last_sequence_;
      items_[id] = std::move(item);
    }
  }

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override {
    for (size_t i = 0; i < items.size(); ++i) {
      const Item& item = items[i];
      const std::string field = absl::StrCat("items[", i, "]");
      if (item.id.empty() || item.id.size() > 512) {
        return InvalidField(field + ".id", "must have 1 to 512 bytes");
      }
      if (static_cast<int64_t>(item.embedding.size()) != dimension_) {
        return InvalidField(
            field + ".embedding",
            absl::StrCat("has ", item.embedding.size(),
                         " values; the collection's dimension is ",
                         dimension_));
      }
    }
    absl::MutexLock lock(&mutex_);
    std::vector<PutResult> results;
    std::set<std::string> created;
    for (const Item& item : items) {
      PutResult& result = results.emplace_back();
      const Item* const stored = Find(item.id);
      result.status = CheckIfSequence(
          item, stored == nullptr ? std::nullopt
                                  : std::make_optional(stored->sequence));
      if (!result.status.ok()) continue;
      result.created = stored == nullptr;
      if (result.created) created.insert(item.id);
      Item written = item;
      written.if_sequence.reset();
      if (!created.contains(item.id)) {
        written.create_time = stored->create_time;
      }
      result.sequence = Write(std::move(written));
    }
    return results;
  }

  absl::StatusOr<Item> Update(
      const std::string& id,
      const std::function<absl::Status(Item&)>& change) override {
    absl::MutexLock lock(&mutex_);
    const Item* const stored = Find(id);
    if (stored == nullptr) return NotFound("item", id);
    Item changed = Pick(*stored, {.payload = true});
    const absl::Status status = change(changed);
    if (!status.ok()) return status;
    Item written = *stored;
    written.payload = changed.payload;
    written.media_uri = changed.media_uri;
    written.expire_time = changed.expire_time;
    written.update_time = changed.update_time;
    Write(std::move(written));
    return Pick(items_.at(id), {.payload = true});
  }

  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) override {
    absl::MutexLock lock(&mutex_);
    int64_t deleted = 0;
    for (const std::string& id : ids) {
      deleted += Find(id) == nullptr ? 0 : 1;
      Erase(id);
    }
    return deleted;
  }

  absl::StatusOr<std::vector<std::string>> RemoveExpired(
      int64_t limit) override {
    absl::MutexLock lock(&mutex_);
    const Expiry::View view = expiry_.Look(last_sequence_);
    std::vector<std::string> removed;
    for (const auto& [time, id] : Expired(view)) {
      if (static_cast<int64_t>(removed.size()) == limit) return removed;
      Erase(id);
      removed.push_back(id);
    }
    expiry_.Forget(view);
    return removed;
  }

  absl::StatusOr<std::vector<std::string>> ListExpired(
      std::string* place, int64_t limit) const override {
    absl::MutexLock lock(&mutex_);
    std::vector<std::string> found;
    for (const auto& [time, id] : Expired(expiry_.Look(last_sequence_))) {
      if (static_cast<int64_t>(found.size()) == limit) break;
      std::string at = absl::StrFormat("%020d %s", absl::ToUnixNanos(time), id);
      if (at <= *place) continue;
      *place = std::move(at);
      found.push_back(id);
    }
    return found;
  }

  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    absl::MutexLock lock(&mutex_);
    std::vector<std::optional<Item>> found;
    for (const std::string& id : ids) {
      const Item* const stored = Find(id);
      found.push_back(stored == nullptr
                          ? std::nullopt
                          : std::make_optional(Pick(*stored, parts)));
    }
    return found;
  }

  absl::Status GetEmbeddings(
      absl::Span<const std::string> ids,
      const std::function<void(size_t, absl::Span<const float>)>& visit)
      const override {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < ids.size(); ++i) {
      const Item* const stored = Find(ids[i]);
      if (stored != nullptr) visit(i, stored->embedding);
    }
    return absl::OkStatus();
  }

  absl::Status VisitParts(absl::Span<const std::string> ids,
                          const std::function<bool(size_t, absl::string_view)>&
                              visit) const override {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < ids.size(); ++i) {
      const Item* const stored = Find(ids[i]);
      if (stored == nullptr || stored->parts.empty()) continue;
      if (!visit(i, stored->parts)) break;
    }
    return absl::OkStatus();
  }

  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override {
    std::vector<Item> items;
    {
      absl::MutexLock lock(&mutex_);
      const Expiry::View view = expiry_.Look(last_sequence_);
      for (const auto& [id, item] : items_) {
        if (id > after_id && !view.Expired(item.sequence, item.expire_time)) {
          items.push_back(Pick(item, parts));
        }
      }
    }
    for (Item& item : items) {
      if (!visit(std::move(item))) break;
    }
    return absl::OkStatus();
  }

  uint64_t last_sequence() const override {
    absl::MutexLock lock(&mutex_);
    return last_sequence_;
  }

  absl::Status ScanChanges(
      uint64_t after,
      const std::function<bool(uint64_t, absl::string_view)>& visit)
      const override {
    std::multimap<uint64_t, std::string> changes;
    {
      absl::MutexLock lock(&mutex_);
      changes = changes_;
    }
    for (auto it = changes.upper_bound(after); it != changes.end(); ++it) {
      if (!visit(it->first, it->second)) break;
    }
    return absl::OkStatus();
  }

  absl::Status Checkpoint(const std::string& directory) const override {
    if (!std::filesystem::create_directory(directory)) {
      return absl::AlreadyExistsError(directory + " exists");
    }
    std::ofstream file(directory + "/items.fake", std::ios::binary);
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, item] : items_) {
      for (const std::string& piece :
           {id, EncodeHeader(item, item.create_time, item.sequence),
            item.payload, EncodeVector(item.embedding), item.parts,
            item.media}) {
        file << piece.size() << "\n" << piece;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Import(absl::Span<const Item> items,
                      absl::Span<const std::string> removed,
                      uint64_t sequence) override {
    absl::MutexLock lock(&mutex_);
    if (last_sequence_ == 0) trimmed_sequence_ = sequence;
    last_sequence_ = std::max(last_sequence_, sequence);
    for (const Item& item : items) {
      last_sequence_ = std::max(last_sequence_, item.sequence);
      if (item.sequence > trimmed_sequence_) {
        changes_.emplace(item.sequence, item.id);
      }
      items_.insert_or_assign(item.id, item);
    }
    for (const std::string& id : removed) {
      items_.erase(id);
      changes_.emplace(sequence, id);
    }
    return absl::OkStatus();
  }

  void KeepChanges(std::optional<uint64_t> after) override {
    absl::MutexLock lock(&mutex_);
    kept_after_ = after;
  }

  absl::Status TrimChanges(uint64_t up_to) override {
    absl::MutexLock lock(&mutex_);
    if (up_to > last_sequence_) {
      return InvalidField(
          "up_to",
          absl::StrCat("is ", up_to, "; the last write is ", last_sequence_));
    }
    up_to = std::min(up_to, kept_after_.value_or(up_to));
    changes_.erase(changes_.begin(), changes_.upper_bound(up_to));
    trimmed_sequence_ = std::max(trimmed_sequence_, up_to);
    return absl::OkStatus();
  }

  uint64_t trimmed_sequence() const override {
    absl::MutexLock lock(&mutex_);
    return trimmed_sequence_;
  }

  absl::Status write_status() const override { return absl::OkStatus(); }

  int64_t count() const override {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(items_.size());
  }

  int64_t disk_bytes() const override { return 0; }

 private:
  // The earliest first.
  std::vector<std::pair<absl::Time, std::string>> Expired(
      const Expiry::View& view) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<std::pair<absl::Time, std::string>> expired;
    for (const auto& [id, item] : items_) {
      if (view.Expired(item.sequence, item.expire_time)) {
        expired.emplace_back(*item.expire_time, id);
      }
    }
    std::sort(expired.begin(), expired.end());
    return expired;
  }

  static bool ReadPiece(std::ifstream& file, std::string& piece) {
    size_t size = 0;
    if (!(file >> size)) return false;
    file.get();
    piece.resize(size);
    file.read(piece.data(), static_cast<std::streamsize>(size));
    return true;
  }

  static Item Pick(Item item, ItemParts parts) {
    if (!parts.payload) item.payload.clear();
    if (!parts.embedding) item.embedding.clear();
    if (!parts.parts) item.parts.clear();
    if (!parts.media) item.media.clear();
    return item;
  }

  // Null for an id that is not there, or has expired.
  const Item* Find(const std::string& id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto known = items_.find(id);
    if (known == items_.end()) return nullptr;
    const Item& item = known->second;
    return expiry_.Look(last_sequence_).Expired(item.sequence, item.expire_time)
               ? nullptr
               : &item;
  }

  uint64_t Write(Item item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    item.sequence = ++last_sequence_;
    changes_.emplace(item.sequence, item.id);
    items_.insert_or_assign(item.id, item);
    return item.sequence;
  }

  void Erase(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (items_.erase(id) > 0) changes_.emplace(++last_sequence_, id);
  }

  const int64_t dimension_;
  const RealClock system_clock_;
  mutable Expiry expiry_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Item> items_ ABSL_GUARDED_BY(mutex_);
  std::multimap<uint64_t, std::string> changes_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t trimmed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<uint64_t> kept_after_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
