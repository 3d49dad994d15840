#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/query/collection.h"
#include "tests/support/fake_item_store.h"
#include "tests/support/fake_vector_index.h"

namespace quern {

// An ItemStore that passes on to another one.
class ForwardingItemStore : public ItemStore {
 public:
  explicit ForwardingItemStore(std::shared_ptr<ItemStore> store)
      : store_(std::move(store)) {}

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override {
    return store_->Put(items);
  }
  absl::StatusOr<Item> Update(
      const std::string& id,
      const std::function<absl::Status(Item&)>& change) override {
    return store_->Update(id, change);
  }
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) override {
    return store_->Delete(ids);
  }
  absl::StatusOr<std::vector<std::string>> RemoveExpired(
      int64_t limit) override {
    return store_->RemoveExpired(limit);
  }
  absl::StatusOr<std::vector<std::string>> ListExpired(
      std::string* place, int64_t limit) const override {
    return store_->ListExpired(place, limit);
  }
  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    return store_->Get(ids, parts);
  }
  absl::Status GetEmbeddings(
      absl::Span<const std::string> ids,
      const std::function<void(size_t, absl::Span<const float>)>& visit)
      const override {
    return store_->GetEmbeddings(ids, visit);
  }
  absl::Status VisitParts(absl::Span<const std::string> ids,
                          const std::function<bool(size_t, absl::string_view)>&
                              visit) const override {
    return store_->VisitParts(ids, visit);
  }
  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override {
    return store_->Scan(after_id, parts, visit);
  }
  uint64_t last_sequence() const override { return store_->last_sequence(); }
  absl::Status ScanChanges(
      uint64_t after,
      const std::function<bool(uint64_t, absl::string_view)>& visit)
      const override {
    return store_->ScanChanges(after, visit);
  }
  absl::Status Import(absl::Span<const Item> items,
                      absl::Span<const std::string> removed,
                      uint64_t sequence) override {
    return store_->Import(items, removed, sequence);
  }
  void KeepChanges(std::optional<uint64_t> after) override {
    store_->KeepChanges(after);
  }
  absl::Status TrimChanges(uint64_t up_to) override {
    return store_->TrimChanges(up_to);
  }
  uint64_t trimmed_sequence() const override {
    return store_->trimmed_sequence();
  }
  absl::Status write_status() const override { return store_->write_status(); }
  absl::Status Checkpoint(const std::string& directory) const override {
    return store_->Checkpoint(directory);
  }
  int64_t count() const override { return store_->count(); }
  int64_t disk_bytes() const override { return store_->disk_bytes(); }

 private:
  const std::shared_ptr<ItemStore> store_;
};

// Collections in memory whose items outlive them, as on a disk.
class FakeDisk {
 public:
  CollectionFactories Factories() {
    return {.open_store = [this](const std::string& path,
                                 const v1::Collection& record)
                -> absl::StatusOr<std::unique_ptr<ItemStore>> {
              if (!broken_path_.empty() && path == broken_path_) {
                return absl::DataLossError("a damaged file");
              }
              std::shared_ptr<FakeItemStore>& store = stores_[path];
              if (store == nullptr) {
                store = std::make_shared<FakeItemStore>(record.dimension(),
                                                        nullptr, path);
              }
              return std::make_unique<ForwardingItemStore>(store);
            },
            .create_index = [](const v1::Collection& record,
                               const std::string& /*directory*/,
                               ItemStore* /*store*/)
                -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
              return std::make_unique<FakeVectorIndex>(record.dimension(),
                                                       Metric::kCosine);
            }};
  }

  // Opening a store at `path` fails from now on.
  void Break(const std::string& path) { broken_path_ = path; }

  // Paths that were opened.
  std::vector<std::string> Paths() const {
    std::vector<std::string> paths;
    for (const auto& [path, store] : stores_) paths.push_back(path);
    return paths;
  }

 private:
  std::map<std::string, std::shared_ptr<FakeItemStore>> stores_;
  std::string broken_path_;
};

inline v1::Collection Record(const std::string& name, int dimension) {
  v1::Collection record;
  record.set_name(name);
  record.set_model("none");
  record.set_dimension(dimension);
  return record;
}

inline Item MakeItem(const std::string& id, std::vector<float> embedding) {
  return {.id = id,
          .payload = "payload of " + id,
          .embedding = std::move(embedding),
          .create_time = absl::UnixEpoch(),
          .update_time = absl::UnixEpoch()};
}

}  // namespace quern
