#include "engine/index/device_thread.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "faiss/IndexFlat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "tests/support/cpu_device.h"
#include "tests/support/gate.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 8;
constexpr int64_t kRows = 500;

const RealClock kClock;

class DeviceThreadTest : public testing::Test {
 protected:
  DeviceThreadTest() : values_(kRows * kDimension) {
    std::mt19937 random(1);
    std::uniform_int_distribution<> small(-4, 4);
    // Products and sums of these are exact.
    for (float& value : values_) value = static_cast<float>(small(random)) / 64;
    auto flat = std::make_shared<faiss::IndexFlatIP>(kDimension);
    flat->add(kRows, values_.data());
    rows_.shape = {.storage = VectorStorage::kFp32,
                   .rows = kRows,
                   .dimension = kDimension};
    rows_.index = std::move(flat);
  }

  std::unique_ptr<DeviceThread> Open(int64_t memory_bytes = 0) {
    return std::make_unique<DeviceThread>(
        "test:0",
        [this]() -> absl::StatusOr<std::unique_ptr<Device>> {
          return std::make_unique<CpuDevice>(probe_);
        },
        memory_bytes,
        [this](const std::string& sentence) { reports_.push_back(sentence); });
  }

  Matrix Query(int64_t row) const {
    const auto begin = values_.begin() + row * kDimension;
    return Matrix(1, kDimension, std::vector<float>(begin, begin + kDimension));
  }

  // The scores of the k rows nearest to a row.
  std::vector<float> Nearest(int64_t row, size_t k) const {
    std::vector<float> scores;
    for (int64_t i = 0; i < kRows; ++i) {
      float score = 0;
      for (int64_t j = 0; j < kDimension; ++j) {
        score += values_[row * kDimension + j] * values_[i * kDimension + j];
      }
      scores.push_back(score);
    }
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.resize(k);
    return scores;
  }

  // Lets the first search wait, until the gate opens.
  void HoldFirstSearch() {
    probe_->before_search = [this, first = true](MatrixView, int64_t,
                                                 int64_t) mutable {
      if (std::exchange(first, false)) {
        gate_.reached.Notify();
        gate_.open.WaitForNotification();
      }
      return absl::OkStatus();
    };
  }

  std::vector<float> values_;
  DeviceRows rows_;
  std::shared_ptr<CpuDeviceProbe> probe_ = std::make_shared<CpuDeviceProbe>();
  std::vector<std::string> reports_;
  Gate gate_;
  const RequestContext context_{&kClock, "test"};
};

TEST_F(DeviceThreadTest, OneThreadAloneTouchesTheDevice) {
  auto thread = Open();
  auto index = ValueOrDie(thread->Load(rows_));
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int64_t i = 0; i < 4; ++i) {
    callers.emplace_back([&, i] {
      for (int64_t row = i; row < kRows; row += 40) {
        const DeviceHits hits =
            ValueOrDie(thread->Search(context_, index, Query(row), 5, 0));
        EXPECT_EQ(hits.scores, Nearest(row, 5));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  thread->Unload(std::move(index), rows_.shape);
  thread = nullptr;
  EXPECT_EQ(probe_->indexes, 0);
  EXPECT_EQ(probe_->threads().size(), 1u);
  EXPECT_EQ(probe_->threads().count(std::this_thread::get_id()), 0u);
}

TEST_F(DeviceThreadTest, SearchesThatWaitRunAsOne) {
  HoldFirstSearch();
  auto thread = Open();
  auto index = ValueOrDie(thread->Load(rows_));
  std::vector<std::thread> callers;
  const auto ask = [&](int64_t row, int64_t k) {
    callers.emplace_back([&, row, k] {
      const DeviceHits hits =
          ValueOrDie(thread->Search(context_, index, Query(row), k, 0));
      EXPECT_EQ(hits.scores, Nearest(row, static_cast<size_t>(k)));
    });
  };
  ask(0, 2);
  gate_.reached.WaitForNotification();
  for (const int64_t k : {1, 7, 3}) ask(10 * k, k);
  while (thread->waiting() < 3) std::this_thread::yield();
  gate_.open.Notify();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(probe_->searches, 2);
  EXPECT_EQ(probe_->queries, 4);
  EXPECT_EQ(probe_->largest_k, 7);
  thread->Unload(std::move(index), rows_.shape);
}

TEST_F(DeviceThreadTest, WhoHasGoneIsNotWaitedForNorSearchedFor) {
  HoldFirstSearch();
  auto thread = Open();
  auto index = ValueOrDie(thread->Load(rows_));
  std::thread caller([&] {
    EXPECT_THAT(thread->Search(context_, index, Query(0), 1, 0), IsOk());
  });
  gate_.reached.WaitForNotification();
  RequestContext gone(&kClock, "gone");
  gone.Cancel();
  EXPECT_THAT(thread->Search(gone, index, Query(0), 1, 0),
              StatusIs(absl::StatusCode::kCancelled));
  gate_.open.Notify();
  caller.join();
  EXPECT_THAT(thread->Search(context_, index, Query(1), 1, 0), IsOk());
  EXPECT_EQ(probe_->queries, 2);
  thread->Unload(std::move(index), rows_.shape);
}

TEST_F(DeviceThreadTest, LackOfMemoryPassesAndAFailureStays) {
  absl::Status fault = absl::ResourceExhaustedError("alloc fail");
  probe_->before_search = [&](MatrixView, int64_t, int64_t) { return fault; };
  auto thread = Open();
  auto index = ValueOrDie(thread->Load(rows_));
  const auto search = [&] {
    return thread->Search(context_, index, Query(0), 1, 0).status();
  };
  EXPECT_THAT(search(), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(thread->status(), IsOk());
  fault = absl::OkStatus();
  EXPECT_THAT(search(), IsOk());

  fault = absl::InternalError("an illegal address");
  EXPECT_THAT(search(), StatusIs(absl::StatusCode::kUnavailable));
  fault = absl::OkStatus();
  const int searches = probe_->searches;
  EXPECT_THAT(search(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(thread->Load(rows_), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(probe_->searches, searches);
  EXPECT_EQ(thread->room_bytes(), 0);
  EXPECT_THAT(reports_, testing::ElementsAre("test:0: an illegal address"));
  thread->Unload(std::move(index), rows_.shape);
}

TEST_F(DeviceThreadTest, KeepsToItsMemory) {
  const int64_t bytes = DeviceBytes(rows_.shape);
  ASSERT_GE(bytes, kRows * kDimension * 4);
  auto thread = Open(probe_->scratch_bytes + 2 * bytes + 1);
  auto first = ValueOrDie(thread->Load(rows_));
  auto second = ValueOrDie(thread->Load(rows_));
  EXPECT_THAT(thread->Load(rows_),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(probe_->indexes, 2);
  thread->Unload(std::move(first), rows_.shape);
  auto third = ValueOrDie(thread->Load(rows_));
  EXPECT_EQ(probe_->indexes, 2);

  // A load that fails gives its room back.
  thread->Unload(std::move(third), rows_.shape);
  probe_->load_status = absl::ResourceExhaustedError("alloc fail");
  EXPECT_THAT(thread->Load(rows_),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(thread->room_bytes(), bytes + 1);
  thread->Unload(std::move(second), rows_.shape);
}

TEST_F(DeviceThreadTest, TakesFourFifthsOfWhatIsFree) {
  probe_->free_bytes = 1'000'000;
  probe_->scratch_bytes = 1000;
  EXPECT_EQ(Open()->room_bytes(), 799'000);
  EXPECT_EQ(Open(500'000)->room_bytes(), 499'000);
  EXPECT_EQ(Open(2'000'000)->room_bytes(), 999'000);
  const auto small = Open(1000);
  EXPECT_THAT(small->status(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(
      reports_,
      testing::ElementsAre(testing::HasSubstr("raise index.gpu_memory_bytes")));
}

TEST_F(DeviceThreadTest, ADeviceThatIsMissingIsLost) {
  DeviceThread thread(
      "test:7",
      []() -> absl::StatusOr<std::unique_ptr<Device>> {
        return absl::FailedPreconditionError("there are 2 devices");
      },
      0, [this](const std::string& sentence) { reports_.push_back(sentence); });
  EXPECT_THAT(thread.status(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(thread.Load(rows_), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(reports_, testing::ElementsAre("test:7: there are 2 devices"));
}

}  // namespace
}  // namespace quern
