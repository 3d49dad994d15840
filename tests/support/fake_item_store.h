#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/error.h"
#include "engine/store/item_store.h"

namespace quern {

// An ItemStore in memory. Thread-safe.
class FakeItemStore final : public ItemStore {
 public:
  explicit FakeItemStore(int64_t dimension) : dimension_(dimension) {}

  absl::StatusOr<std::vector<bool>> Put(absl::Span<const Item> items) override {
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
    std::map<std::string, Item> last;
    std::vector<bool> is_new;
    for (const Item& item : items) {
      is_new.push_back(!items_.contains(item.id) && !last.contains(item.id));
      last[item.id] = item;
    }
    for (auto& [id, item] : last) {
      const auto known = items_.find(id);
      if (known != items_.end()) item.create_time = known->second.create_time;
      items_[id] = std::move(item);
    }
    return is_new;
  }

  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) override {
    absl::MutexLock lock(&mutex_);
    int64_t deleted = 0;
    for (const std::string& id : ids) {
      deleted += static_cast<int64_t>(items_.erase(id));
    }
    return deleted;
  }

  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    absl::MutexLock lock(&mutex_);
    std::vector<std::optional<Item>> found;
    for (const std::string& id : ids) {
      const auto known = items_.find(id);
      found.push_back(known == items_.end()
                          ? std::nullopt
                          : std::make_optional(Pick(known->second, parts)));
    }
    return found;
  }

  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override {
    for (const auto& [id, item] : Copy()) {
      if (id > after_id && !visit(Pick(item, parts))) break;
    }
    return absl::OkStatus();
  }

  int64_t count() const override {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(items_.size());
  }

  int64_t disk_bytes() const override { return 0; }

 private:
  static Item Pick(Item item, ItemParts parts) {
    if (!parts.payload) item.payload.clear();
    if (!parts.embedding) item.embedding.clear();
    return item;
  }

  std::map<std::string, Item> Copy() const {
    absl::MutexLock lock(&mutex_);
    return items_;
  }

  const int64_t dimension_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Item> items_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
