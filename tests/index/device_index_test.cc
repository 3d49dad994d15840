// An index whose segments lie on devices: FAISS on the processor stands for
// FAISS on a GPU (gpu_device_test.cc has that).

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/filter/filter.h"
#include "engine/index/device_pool.h"
#include "engine/index/sharded_index.h"
#include "tests/contract/vector_index_contract.h"
#include "tests/index/clustered_vectors.h"
#include "tests/index/index_with_store.h"
#include "tests/support/cpu_device.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using Results = std::vector<std::vector<ScoredId>>;

constexpr int64_t kDimension = 32;
constexpr int64_t kRows = 6000;
constexpr int64_t kQueries = 20;
constexpr double kNoise = 0.03;  // Of a recall that so few queries measure.

const RealClock kClock;

std::shared_ptr<const DevicePool> CpuPool(
    const std::vector<std::string>& names,
    const std::shared_ptr<CpuDeviceProbe>& probe, DevicePoolOptions options) {
  return std::make_shared<const DevicePool>(
      names,
      [probe](const std::string&) -> absl::StatusOr<std::unique_ptr<Device>> {
        return std::make_unique<CpuDevice>(probe);
      },
      options);
}

VectorIndexBackend OnDevice(const std::string& name, IndexKind kind,
                            VectorStorage storage, VectorStorage on_device,
                            int32_t shards, bool exact) {
  return {
      .name = name,
      .create = [=](int64_t dimension,
                    Metric metric) -> std::unique_ptr<VectorIndex> {
        return std::make_unique<IndexWithStore>(ShardedIndexOptions{
            .dimension = dimension,
            .metric = metric,
            .kind = kind,
            .storage = storage,
            .shards = shards,
            .devices = CpuPool({"test:0"}, std::make_shared<CpuDeviceProbe>(),
                               {.storage = on_device, .min_rows = 1}),
            .min_ann_rows = 500});
      },
      .search = {.exact = exact},
      .settle = Optimize,
      .device = "test:0"};
}

INSTANTIATE_TEST_SUITE_P(
    Devices, VectorIndexContract,
    testing::Values(
        OnDevice("Fp32InHalves", IndexKind::kExact, VectorStorage::kFp32,
                 VectorStorage::kFp16, 1, false),
        OnDevice("Int8InHalves", IndexKind::kExact, VectorStorage::kInt8,
                 VectorStorage::kFp16, 1, false),
        OnDevice("GraphInFloats", IndexKind::kHnsw, VectorStorage::kFp16,
                 VectorStorage::kFp32, 2, false),
        OnDevice("ListsInHalves", IndexKind::kIvfPq, VectorStorage::kInt8,
                 VectorStorage::kFp16, 1, true)),
    [](const auto& info) { return info.param.name; });

class DeviceIndexTest : public testing::Test {
 protected:
  // With `devices` none, the processor searches.
  std::unique_ptr<IndexWithStore> Filled(
      IndexKind kind, VectorStorage storage,
      std::shared_ptr<const DevicePool> devices, int32_t shards = 2) const {
    auto index = std::make_unique<IndexWithStore>(
        ShardedIndexOptions{.dimension = kDimension,
                            .kind = kind,
                            .storage = storage,
                            .shards = shards,
                            .devices = std::move(devices),
                            .min_ann_rows = 500});
    std::vector<std::string> ids;
    std::vector<FieldValues> fields;
    for (int64_t i = 0; i < kRows; ++i) {
      ids.push_back(absl::StrCat("item", i));
      fields.push_back({.entries = {{0, FieldValue(static_cast<double>(i))}}});
    }
    EXPECT_THAT(index->Upsert(ids, vectors_.view(), fields), IsOk());
    Optimize(*index);
    return index;
  }

  static void RemoveEveryFourth(VectorIndex& index) {
    std::vector<std::string> ids;
    for (int64_t i = 0; i < kRows; i += 4)
      ids.push_back(absl::StrCat("item", i));
    EXPECT_THAT(index.Remove(ids), IsOk());
  }

  Results Search(const VectorIndex& index, const VectorSearchOptions& options,
                 SearchStats* stats) const {
    const RequestContext context(&kClock, "test");
    return ValueOrDie(index.Search(context, queries_.view(), options, stats));
  }

  // The same ids with the same scores, to the last bit.
  void ExpectSame(const VectorIndex& index, const VectorIndex& expected,
                  const VectorSearchOptions& options,
                  SearchStats* stats) const {
    SearchStats ignored;
    const Results wanted = Search(expected, options, &ignored);
    const Results found = Search(index, options, stats);
    for (size_t q = 0; q < wanted.size(); ++q) {
      ASSERT_EQ(found[q].size(), wanted[q].size()) << "query " << q;
      for (size_t i = 0; i < wanted[q].size(); ++i) {
        EXPECT_EQ(found[q][i].id, wanted[q][i].id) << q << ", " << i;
        EXPECT_EQ(found[q][i].score, wanted[q][i].score) << q << ", " << i;
      }
    }
  }

  const Matrix vectors_ = ClusteredVectors(kRows, kDimension, 200, 2);
  const Matrix queries_ = ClusteredVectors(kQueries, kDimension, 200, 3);
  const std::shared_ptr<CpuDeviceProbe> probe_ =
      std::make_shared<CpuDeviceProbe>();
};

TEST_F(DeviceIndexTest, FindsWhatTheProcessorFindsDeadRowsAndFiltersOrNot) {
  for (const VectorStorage storage :
       {VectorStorage::kFp32, VectorStorage::kInt8}) {
    const auto expected = Filled(IndexKind::kExact, storage, nullptr);
    const auto index =
        Filled(IndexKind::kExact, storage,
               CpuPool({"test:0", "test:1"}, probe_, {.min_rows = 100}));
    for (const bool with_dead : {false, true}) {
      if (with_dead) {
        RemoveEveryFourth(*expected);
        RemoveEveryFourth(*index);
      }
      for (const char* text : {"", "n < 3000", "n < 20"}) {
        for (const int64_t k : {1, 10, 100, 5000}) {
          SCOPED_TRACE(absl::StrCat(text, ", k ", k, ", dead ", with_dead));
          VectorSearchOptions options{.k = k, .explain = true};
          if (*text != '\0') {
            options.filter = ValueOrDie(
                ParseFilter(text, {{.path = "n", .type = FieldType::kNumber}}));
          }
          SearchStats stats;
          ExpectSame(*index, *expected, options, &stats);
          EXPECT_THAT(stats.degraded_reasons, testing::IsEmpty());
          const bool on_device =
              k <= 100 && !absl::EqualsIgnoreCase(text, "n < 20");
          EXPECT_EQ(absl::StrContains(stats.plan, " on test:0"), on_device)
              << stats.plan;
        }
      }
    }
    EXPECT_LE(probe_->largest_k, kMaxDeviceResults);
  }
}

TEST_F(DeviceIndexTest, SegmentsAreSpreadOverDevices) {
  const auto index =
      Filled(IndexKind::kExact, VectorStorage::kFp32,
             CpuPool({"test:0", "test:1"}, probe_, {.min_rows = 100}));
  std::vector<std::string> devices;
  for (const ShardInfo& shard : index->shards()) {
    devices.push_back(shard.device);
    EXPECT_EQ(shard.message, "");
  }
  EXPECT_THAT(devices, testing::UnorderedElementsAre("test:0", "test:1"));
  EXPECT_EQ(probe_->threads().size(), 2u);
}

TEST_F(DeviceIndexTest, MoreEqualScoresThanADeviceReturnsAreStillInOrder) {
  const auto index = std::make_unique<IndexWithStore>(ShardedIndexOptions{
      .dimension = 2,
      .devices = CpuPool({"test:0"}, probe_, {.min_rows = 100})});
  constexpr int kEqual = 4000;
  std::vector<std::string> ids;
  std::vector<float> values;
  for (int i = kEqual; i-- > 0;) {
    ids.push_back(absl::StrFormat("id%04d", i));
    values.insert(values.end(), {1, 3});
  }
  ASSERT_THAT(index->Upsert(ids, Matrix(kEqual, 2, values).view()), IsOk());
  Optimize(*index);
  const RequestContext context(&kClock, "test");
  const std::vector<float> query = {1, 0};
  const Results found =
      ValueOrDie(index->Search(context, {query.data(), 1, 2}, {.k = 3}));
  ASSERT_EQ(found[0].size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(found[0][i].id, absl::StrFormat("id%04d", i));
  }
  EXPECT_GE(probe_->searches, 1);
}

TEST_F(DeviceIndexTest, ListsReachTheRecallOfTheProcessorAtLeast) {
  const auto exact = Filled(IndexKind::kExact, VectorStorage::kFp32, nullptr);
  const auto expected =
      Filled(IndexKind::kIvfPq, VectorStorage::kInt8, nullptr);
  const auto index = Filled(IndexKind::kIvfPq, VectorStorage::kInt8,
                            CpuPool({"test:0"}, probe_, {.min_rows = 100}));
  SearchStats stats;
  const VectorSearchOptions options{.k = 10, .explain = true};
  const Results truth = Search(*exact, options, &stats);
  const auto recall = [&truth](const Results& found) {
    double hits = 0;
    for (size_t q = 0; q < truth.size(); ++q) {
      for (const ScoredId& hit : truth[q]) {
        hits += static_cast<double>(
            std::count_if(found[q].begin(), found[q].end(),
                          [&hit](const auto& f) { return f.id == hit.id; }));
      }
    }
    return hits / (10.0 * kQueries);
  };
  const double by_processor = recall(Search(*expected, options, &stats));
  const double by_device = recall(Search(*index, options, &stats));
  EXPECT_THAT(stats.plan, testing::HasSubstr(" lists of "));
  EXPECT_THAT(stats.plan, testing::HasSubstr(" on test:0"));
  EXPECT_GE(by_device, by_processor - kNoise);
  ExpectSame(*index, *exact, {.k = 10, .exact = true}, &stats);
}

TEST_F(DeviceIndexTest, LackOfMemorySendsOneSearchToTheProcessor) {
  const auto expected =
      Filled(IndexKind::kExact, VectorStorage::kInt8, nullptr);
  const auto index = Filled(IndexKind::kExact, VectorStorage::kInt8,
                            CpuPool({"test:0"}, probe_, {.min_rows = 100}));
  probe_->before_search = [](MatrixView, int64_t, int64_t) {
    return absl::ResourceExhaustedError("alloc fail");
  };
  SearchStats stats;
  ExpectSame(*index, *expected, {.k = 10}, &stats);
  EXPECT_THAT(stats.degraded_reasons,
              testing::ElementsAre(testing::StartsWith("test:0: alloc fail")));
  EXPECT_EQ(stats.shards_answered, 2);
  probe_->before_search = [](MatrixView, int64_t, int64_t) {
    return absl::OkStatus();
  };
  ExpectSame(*index, *expected, {.k = 10}, &stats);
  EXPECT_THAT(stats.degraded_reasons, testing::IsEmpty());
  EXPECT_EQ(index->shards()[0].device, "test:0");
}

TEST_F(DeviceIndexTest, AFailureInTheMiddleOfASearchIsMadeGoodAndSeen) {
  const auto expected =
      Filled(IndexKind::kExact, VectorStorage::kInt8, nullptr);
  const auto index = Filled(IndexKind::kExact, VectorStorage::kInt8,
                            CpuPool({"test:0"}, probe_, {.min_rows = 100}));
  // One of the two segments is done by then.
  probe_->before_search = [this](MatrixView, int64_t, int64_t) {
    return probe_->searches > 1 ? absl::InternalError("an illegal address")
                                : absl::OkStatus();
  };
  for (int i = 0; i < 2; ++i) {
    SearchStats stats;
    ExpectSame(*index, *expected, {.k = 10}, &stats);
    EXPECT_THAT(stats.degraded_reasons,
                testing::ElementsAre(
                    testing::StartsWith("test:0: an illegal address")));
    EXPECT_EQ(probe_->searches, 2);
  }
  for (const ShardInfo& shard : index->shards()) {
    EXPECT_EQ(shard.device, "cpu");
    EXPECT_THAT(shard.message, testing::HasSubstr("an illegal address"));
    EXPECT_TRUE(shard.available);
  }
}

TEST_F(DeviceIndexTest, AMissingDeviceIsSeen) {
  const auto expected =
      Filled(IndexKind::kExact, VectorStorage::kFp32, nullptr);
  const auto index = Filled(
      IndexKind::kExact, VectorStorage::kFp32,
      std::make_shared<const DevicePool>(
          std::vector<std::string>{"test:9"},
          [](const std::string&) -> absl::StatusOr<std::unique_ptr<Device>> {
            return absl::FailedPreconditionError("there are no devices");
          },
          DevicePoolOptions{.min_rows = 100}));
  SearchStats stats;
  ExpectSame(*index, *expected, {.k = 10}, &stats);
  EXPECT_THAT(stats.degraded_reasons,
              testing::ElementsAre(testing::HasSubstr("there are no devices")));
  EXPECT_EQ(index->shards()[0].device, "cpu");
  EXPECT_THAT(index->shards()[0].message, testing::HasSubstr("test:9"));
}

TEST_F(DeviceIndexTest, WhatHasNoRoomStaysAndMergesMakeRoom) {
  // Of four segments two fit, one of which may be a little larger.
  const int64_t room = DeviceBytes({.storage = VectorStorage::kFp16,
                                    .rows = kRows * 5 / 8,
                                    .dimension = kDimension});
  const auto expected =
      Filled(IndexKind::kExact, VectorStorage::kFp32, nullptr, 4);
  const auto index = Filled(
      IndexKind::kExact, VectorStorage::kFp32,
      CpuPool({"test:0"}, probe_,
              {.memory_bytes = probe_->scratch_bytes + room, .min_rows = 100}),
      4);
  const auto count = [&index](const std::string& device) {
    const std::vector<ShardInfo> shards = index->shards();
    return std::count_if(
        shards.begin(), shards.end(),
        [&device](const ShardInfo& shard) { return shard.device == device; });
  };
  EXPECT_EQ(count("test:0"), 2);
  EXPECT_EQ(count("cpu"), 2);
  EXPECT_EQ(probe_->indexes, 2);
  for (const ShardInfo& shard : index->shards()) {
    EXPECT_EQ(absl::StrContains(shard.message, "no device has room"),
              shard.device == "cpu");
  }
  SearchStats stats;
  ExpectSame(*index, *expected, {.k = 10}, &stats);
  EXPECT_THAT(stats.degraded_reasons, testing::IsEmpty());

  // Half of the rows go: all that is left has room.
  std::vector<std::string> ids;
  for (int64_t i = 0; i < kRows; i += 2) ids.push_back(absl::StrCat("item", i));
  ASSERT_THAT(index->Remove(ids), IsOk());
  Optimize(*index);
  Optimize(*index);
  EXPECT_EQ(count("test:0"), 4);
  EXPECT_EQ(probe_->indexes, 4);
}

}  // namespace
}  // namespace quern
