#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "engine/index/sharded_index.h"
#include "tests/contract/vector_index_contract.h"
#include "tests/index/index_with_store.h"
#include "tests/support/fake_vector_index.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

// One for all indexes, as in a server; too small for what they have.
std::shared_ptr<VectorCache> Cache() {
  static const auto cache = std::make_shared<VectorCache>(128 << 10);
  return cache;
}

// Everything in segments, and what came since in deltas; `exact` where the kind
// may leave something out. With a crew every search asks it, however small.
VectorIndexBackend Sharded(const std::string& name, IndexKind kind,
                           VectorStorage storage, int32_t shards, bool exact,
                           int crew_threads = 0) {
  const auto crew = crew_threads == 0
                        ? nullptr
                        : std::make_shared<WorkCrew>(
                              WorkCrewOptions{.threads = crew_threads});
  return {.name = name,
          .create = [=](int64_t dimension,
                        Metric metric) -> std::unique_ptr<VectorIndex> {
            return std::make_unique<IndexWithStore>(
                ShardedIndexOptions{.dimension = dimension,
                                    .metric = metric,
                                    .kind = kind,
                                    .storage = storage,
                                    .shards = shards,
                                    .cache = Cache(),
                                    .crew = crew,
                                    .min_crew_bytes = 0,
                                    .min_ann_rows = 500});
          },
          .search = {.exact = exact},
          .settle = Optimize};
}

INSTANTIATE_TEST_SUITE_P(
    Backends, VectorIndexContract,
    testing::Values(
        VectorIndexBackend{"Fake",
                           [](int64_t dimension, Metric metric) {
                             return std::unique_ptr<VectorIndex>(
                                 std::make_unique<FakeVectorIndex>(dimension,
                                                                   metric));
                           }},
        Sharded("ExactFp32", IndexKind::kExact, VectorStorage::kFp32, 1, false),
        Sharded("ExactFp16", IndexKind::kExact, VectorStorage::kFp16, 3, false),
        Sharded("ExactInt8", IndexKind::kExact, VectorStorage::kInt8, 1, false),
        Sharded("HnswFp32", IndexKind::kHnsw, VectorStorage::kFp32, 1, true),
        Sharded("HnswInt8", IndexKind::kHnsw, VectorStorage::kInt8, 2, true),
        Sharded("IvfPqInt8", IndexKind::kIvfPq, VectorStorage::kInt8, 1, true),
        Sharded("ExactFp32Crew", IndexKind::kExact, VectorStorage::kFp32, 3,
                false, 3),
        Sharded("ExactInt8Crew", IndexKind::kExact, VectorStorage::kInt8, 1,
                false, 1),
        Sharded("HnswFp16Crew", IndexKind::kHnsw, VectorStorage::kFp16, 2, true,
                2)),
    [](const auto& info) { return info.param.name; });

TEST(ShardedIndexTest, RefusesOptionsOutOfRange) {
  for (const ShardedIndexOptions& options :
       std::vector<ShardedIndexOptions>{{.dimension = 0},
                                        {.dimension = 4097},
                                        {.dimension = 2, .target_recall = 0},
                                        {.dimension = 2, .target_recall = 1.5},
                                        {.dimension = 2, .shards = 0},
                                        {.dimension = 2, .shards = 65}}) {
    EXPECT_THAT(ShardedIndex::Create(options),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace quern
