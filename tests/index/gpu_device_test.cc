// What every index must do, with segments on a GPU. Skips, loudly, where there
// is none.

#include "engine/index/gpu_device.h"

#include <iostream>
#include <memory>
#include <string>

#include "gtest/gtest.h"

#include "engine/index/device_pool.h"
#include "engine/index/sharded_index.h"
#include "tests/contract/vector_index_contract.h"
#include "tests/index/index_with_store.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr char kGpu[] = "cuda:0";

// Opened once for all tests.
const std::shared_ptr<const DevicePool>& Pool(VectorStorage storage) {
  const auto open = [](VectorStorage kept) {
    return new std::shared_ptr<const DevicePool>(
        std::make_shared<const DevicePool>(
            std::vector<std::string>{kGpu}, OpenGpuDevice,
            DevicePoolOptions{.memory_bytes = int64_t{1} << 30,
                              .storage = kept,
                              .min_rows = 1}));
  };
  static const auto* const halves = open(VectorStorage::kFp16);
  static const auto* const floats = open(VectorStorage::kFp32);
  return storage == VectorStorage::kFp16 ? *halves : *floats;
}

// Wherever no GPU can be opened, every test of this binary is skipped and says
// why.
class GpuOrSkip : public testing::Environment {
 public:
  void SetUp() override {
    const absl::Status status = Pool(VectorStorage::kFp16)->status();
    if (status.ok()) return;
    std::cerr << "*** NOTHING OF A GPU IS TESTED HERE: " << status.message()
              << std::endl;
    GTEST_SKIP() << status.message();
  }
};
const testing::Environment* const kGpuOrSkip =
    testing::AddGlobalTestEnvironment(new GpuOrSkip);

VectorIndexBackend OnGpu(const std::string& name, IndexKind kind,
                         VectorStorage storage, VectorStorage on_gpu,
                         bool exact) {
  return {.name = name,
          .create = [=](int64_t dimension,
                        Metric metric) -> std::unique_ptr<VectorIndex> {
            return std::make_unique<IndexWithStore>(
                ShardedIndexOptions{.dimension = dimension,
                                    .metric = metric,
                                    .kind = kind,
                                    .storage = storage,
                                    .devices = Pool(on_gpu),
                                    .min_ann_rows = 500});
          },
          .search = {.exact = exact},
          .settle = Optimize,
          .device = kGpu};
}

INSTANTIATE_TEST_SUITE_P(
    Gpu, VectorIndexContract,
    testing::Values(OnGpu("FlatHalves", IndexKind::kExact, VectorStorage::kInt8,
                          VectorStorage::kFp16, false),
                    OnGpu("FlatFloats", IndexKind::kExact, VectorStorage::kFp32,
                          VectorStorage::kFp32, false),
                    OnGpu("ListsOfHalves", IndexKind::kIvfPq,
                          VectorStorage::kInt8, VectorStorage::kFp16, true),
                    OnGpu("ListsOfFloats", IndexKind::kIvfPq,
                          VectorStorage::kFp32, VectorStorage::kFp32, true)),
    [](const auto& info) { return info.param.name; });

TEST(GpuDeviceTest, AGpuThatIsNotThereIsMissing) {
  EXPECT_THAT(OpenGpuDevice("cuda:4096"),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace quern
