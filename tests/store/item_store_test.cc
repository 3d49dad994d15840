#include <memory>
#include <string>

#include "gtest/gtest.h"

#include "engine/store/rocksdb_item_store.h"
#include "tests/contract/item_store_contract.h"
#include "tests/support/fake_item_store.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

std::unique_ptr<ItemStore> OpenRocksdb(const std::string& folder,
                                       int64_t dimension, const Clock* clock) {
  return ValueOrDie(RocksdbItemStore::Open(
      {.path = folder, .dimension = dimension, .clock = clock}));
}

// Buffers so small that items wander through sorted files during a test.
std::unique_ptr<ItemStore> OpenSmallRocksdb(const std::string& folder,
                                            int64_t dimension,
                                            const Clock* clock) {
  return ValueOrDie(RocksdbItemStore::Open({.path = folder,
                                            .dimension = dimension,
                                            .sync = SyncMode::kNever,
                                            .write_buffer_bytes = 64 << 10,
                                            .clock = clock}));
}

std::unique_ptr<ItemStore> OpenFake(const std::string& folder,
                                    int64_t dimension, const Clock* clock) {
  return std::make_unique<FakeItemStore>(dimension, clock, folder);
}

INSTANTIATE_TEST_SUITE_P(
    Backends, ItemStoreContract,
    testing::Values(ItemStoreBackend{"Rocksdb", OpenRocksdb},
                    ItemStoreBackend{"SmallRocksdb", OpenSmallRocksdb},
                    ItemStoreBackend{"Fake", OpenFake, /*durable=*/false}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quern
