#include "engine/batch/batcher.h"

#include <atomic>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

struct Row : BatchItem {
  int value = 0;
  int result = 0;
  absl::BlockingCounter* unfinished = nullptr;
};

// Doubles the values; a negative one is an error of the whole batch.
class BatcherTest : public testing::Test {
 protected:
  void Start(const BatchOptions& options) {
    batcher_ = std::make_unique<Batcher>(
        "test", options, &clock_,
        [this](absl::Span<BatchItem* const> batch) { return Double(batch); },
        [](BatchItem* item) {
          static_cast<Row*>(item)->unfinished->DecrementCount();
        });
  }

  absl::Status Double(absl::Span<BatchItem* const> batch) {
    ++batches_;
    if (!started_.HasBeenNotified()) started_.Notify();
    if (gated_) gate_.WaitForNotification();
    for (BatchItem* item : batch) {
      if (static_cast<Row*>(item)->value < 0) {
        return absl::InternalError("the tower threw");
      }
    }
    for (BatchItem* item : batch) {
      auto* row = static_cast<Row*>(item);
      row->result = 2 * row->value;
    }
    return absl::OkStatus();
  }

  // Waits for the rows; what is not admitted gets that error.
  std::vector<Row> Run(const RequestContext& context,
                       const std::vector<int>& values) {
    const auto count = static_cast<int64_t>(values.size());
    absl::BlockingCounter unfinished(static_cast<int>(count));
    std::vector<Row> rows(values.size());
    std::vector<BatchItem*> items;
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].context = &context;
      rows[i].lane = context.lane();
      rows[i].value = values[i];
      rows[i].unfinished = &unfinished;
      items.push_back(&rows[i]);
    }
    const absl::Status admitted =
        batcher_->Admit(context, context.lane(), count, count);
    if (admitted.ok()) {
      batcher_->Submit(items);
      unfinished.Wait();
    } else {
      for (Row& row : rows) row.status = admitted;
    }
    return rows;
  }

  const RealClock clock_;
  std::atomic<int> batches_ = 0;
  bool gated_ = false;
  absl::Notification started_;  // The first batch runs.
  absl::Notification gate_;     // It may end.
  std::unique_ptr<Batcher> batcher_;
};

TEST_F(BatcherTest, RunsTheRowsOfACall) {
  Start({.max_rows = 2});
  const RequestContext context(&clock_, "call");
  const std::vector<Row> rows = Run(context, {1, 2, 3});
  for (const Row& row : rows) {
    EXPECT_THAT(row.status, IsOk());
    EXPECT_EQ(row.result, 2 * row.value);
  }
  EXPECT_THAT(Run(context, {}), SizeIs(0));
  // The third row's batch may still be counted.
  batcher_->Shutdown();
  EXPECT_EQ(batcher_->stats().rows, 3);
  EXPECT_EQ(batcher_->stats().batches, batches_);
}

TEST_F(BatcherTest, APoisonedRowFailsAlone) {
  Start({.max_rows = 8});
  const RequestContext context(&clock_, "call");
  const std::vector<Row> rows = Run(context, {1, 2, -1, 4, 5, 6, -2, 8});
  for (const Row& row : rows) {
    if (row.value < 0) {
      EXPECT_THAT(row.status,
                  StatusIs(absl::StatusCode::kInternal, HasSubstr("threw")));
    } else {
      EXPECT_THAT(row.status, IsOk());
      EXPECT_EQ(row.result, 2 * row.value);
    }
  }
}

TEST_F(BatcherTest, RowsOfManyCallersRunTogether) {
  gated_ = true;
  Start({.max_rows = 16});
  constexpr int kCallers = 9;
  std::vector<std::thread> callers;
  std::atomic<int> right = 0;
  const auto call = [&](int value) {
    const RequestContext context(&clock_, "call");
    const std::vector<Row> rows = Run(context, {value});
    right += rows[0].status.ok() && rows[0].result == 2 * value ? 1 : 0;
  };
  callers.emplace_back(call, 0);
  started_.WaitForNotification();
  // While the first runs, the others gather.
  for (int i = 1; i < kCallers; ++i) callers.emplace_back(call, i);
  while (batcher_->stats().queued_rows < kCallers - 1) std::this_thread::yield();
  gate_.Notify();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, kCallers);
  EXPECT_EQ(batches_, 2);
}

TEST_F(BatcherTest, ACancelledRowIsNotRun) {
  gated_ = true;
  Start({.max_rows = 1});
  const RequestContext first(&clock_, "first");
  RequestContext cancelled(&clock_, "cancelled");
  std::thread runs([&] { Run(first, {1}); });
  started_.WaitForNotification();
  std::vector<Row> rows;
  std::thread waits([&] { rows = Run(cancelled, {2, 3}); });
  while (batcher_->stats().queued_rows < 2) std::this_thread::yield();
  cancelled.Cancel();
  gate_.Notify();
  runs.join();
  waits.join();
  for (const Row& row : rows) {
    EXPECT_THAT(row.status, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_EQ(row.result, 0);
  }
  EXPECT_EQ(batches_, 1);
}

TEST_F(BatcherTest, ShutdownRunsWhatWaitsAndRefusesTheRest) {
  gated_ = true;
  Start({.max_rows = 1});
  const RequestContext context(&clock_, "call");
  std::vector<Row> rows;
  std::thread runs([&] { rows = Run(context, {1, 2, 3}); });
  started_.WaitForNotification();
  std::thread stops([&] { batcher_->Shutdown(); });
  while (batcher_->Admit(context, Lane::kBulk, 0, 0).ok()) {
    std::this_thread::yield();
  }
  gate_.Notify();
  runs.join();
  stops.join();
  for (const Row& row : rows) EXPECT_EQ(row.result, 2 * row.value);
  const std::vector<Row> refused = Run(context, {4});
  EXPECT_THAT(refused[0].status, StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(BatcherTest, ARowAdmittedBeforeAShutdownComesBack) {
  Start({.max_rows = 1});
  const RequestContext context(&clock_, "call");
  ASSERT_THAT(batcher_->Admit(context, Lane::kBulk, 2, 2), IsOk());
  batcher_->Withdraw(Lane::kBulk, 1, 1);
  batcher_->Shutdown();
  absl::BlockingCounter unfinished(1);
  Row row;
  row.context = &context;
  row.lane = Lane::kBulk;
  row.unfinished = &unfinished;
  BatchItem* const item = &row;
  batcher_->Submit({&item, 1});
  unfinished.Wait();
  EXPECT_THAT(row.status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(batcher_->stats().queued_rows, 0);
}

TEST_F(BatcherTest, ManyThreadsAndCallersLoseNothing) {
  Start({.max_rows = 4, .threads = 3});
  std::vector<std::thread> callers;
  std::atomic<int> right = 0;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&, caller] {
      const RequestContext context(
          &clock_, "call", absl::InfiniteFuture(),
          caller % 2 == 0 ? Lane::kInteractive : Lane::kBulk);
      for (int i = 0; i < 200; ++i) {
        for (const Row& row : Run(context, {i, i + 1, i + 2})) {
          right += row.status.ok() && row.result == 2 * row.value ? 1 : 0;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, 8 * 200 * 3);
}

}  // namespace
}  // namespace quern
