#pragma once

#include <memory>
#include <string>

#include "engine/index/sharded_index.h"
#include "engine/query/collection.h"
#include "engine/store/rocksdb_item_store.h"

namespace quern {

// Collections on a real disk. Writes are not synced, and indexes are saved by
// VectorIndex::Optimize() alone.
inline CollectionFactories RocksdbFactories() {
  CollectionFactories factories;
  factories.open_store = [](const std::string& path,
                            const v1::Collection& record)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return RocksdbItemStore::Open({.path = path,
                                   .dimension = record.dimension(),
                                   .sync = SyncMode::kNever,
                                   .write_buffer_bytes = 64 << 10});
  };
  factories.open_read_only = [](const std::string& path,
                                const v1::Collection& record,
                                const std::string& reason)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return RocksdbItemStore::Open(
        {.path = path, .dimension = record.dimension(), .read_only = reason});
  };
  factories.create_index =
      [](const v1::Collection& record, const std::string& directory,
         ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
    return ShardedIndex::Create({.dimension = record.dimension(),
                                 .directory = directory,
                                 .read_only = !store->write_status().ok(),
                                 .oldest_sequence = store->trimmed_sequence(),
                                 .newest_sequence = store->last_sequence(),
                                 .saved = [store](uint64_t sequence) {
                                   (void)store->TrimChanges(sequence);
                                 }});
  };
  return factories;
}

}  // namespace quern
