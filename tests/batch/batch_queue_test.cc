#include "engine/batch/batch_queue.h"

#include <deque>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr absl::Time kStart = absl::UnixEpoch();

class BatchQueueTest : public testing::Test {
 protected:
  void SetUp() override { Make({.max_rows = 4}); }

  void Make(const BatchOptions& options) {
    queue_ = std::make_unique<BatchQueue>(options);
  }

  absl::Time now() const { return clock_.Now(); }

  RequestContext& Context(absl::Duration deadline = absl::InfiniteDuration(),
                          Lane lane = Lane::kInteractive) {
    return contexts_.emplace_back(&clock_, "call", now() + deadline, lane);
  }

  std::vector<BatchItem*> Rows(const RequestContext& context, int count,
                               int64_t size = 1) {
    std::vector<BatchItem*> rows;
    for (int i = 0; i < count; ++i) {
      BatchItem& item = items_.emplace_back();
      item.context = &context;
      item.lane = context.lane();
      item.size = size;
      rows.push_back(&item);
    }
    return rows;
  }

  // Rows that come as soon as they are admitted.
  absl::Status AddAll(const std::vector<BatchItem*>& rows) {
    if (rows.empty()) return absl::OkStatus();
    int64_t cost = 0;
    for (const BatchItem* item : rows) cost += item->size;
    const BatchItem& first = *rows.front();
    absl::Status status =
        queue_->Admit(*first.context, first.lane,
                      static_cast<int64_t>(rows.size()), cost, now());
    if (status.ok()) queue_->Add(rows, now());
    return status;
  }

  // Adds one row.
  BatchItem* Add(const RequestContext& context, int64_t size = 1) {
    const std::vector<BatchItem*> rows = Rows(context, 1, size);
    EXPECT_THAT(AddAll(rows), IsOk());
    return rows.front();
  }

  std::vector<BatchItem*> TakeBatch() {
    return queue_->Take(now(), /*drain=*/false).batch;
  }

  // Makes the queue know that a row of size 1 takes 10 ms.
  void Learn() {
    Add(Context());
    const auto batch = TakeBatch();
    queue_->Ran(BatchQueue::CostOf(batch), absl::Milliseconds(10));
  }

  FakeClock clock_{kStart};
  std::deque<RequestContext> contexts_;
  std::deque<BatchItem> items_;
  std::unique_ptr<BatchQueue> queue_;
};

// --- When a batch closes -----------------------------------------------------

TEST_F(BatchQueueTest, WithoutAgeAFreeThreadTakesWhatIsThere) {
  BatchItem* const a = Add(Context());
  BatchItem* const b = Add(Context());
  EXPECT_THAT(TakeBatch(), ElementsAre(a, b));
  EXPECT_EQ(queue_->rows(), 0);
  EXPECT_EQ(queue_->Take(now(), false).look_again, absl::InfiniteFuture());
}

TEST_F(BatchQueueTest, ABatchHasMaxRowsAtMost) {
  for (int i = 0; i < 6; ++i) Add(Context());
  EXPECT_THAT(TakeBatch(), SizeIs(4));
  EXPECT_THAT(TakeBatch(), SizeIs(2));
  EXPECT_THAT(TakeBatch(), IsEmpty());
}

TEST_F(BatchQueueTest, WithAnAgeABatchWaitsUntilItIsOldOrFull) {
  Make({.max_rows = 2, .max_age = absl::Milliseconds(5)});
  Add(Context());
  EXPECT_EQ(queue_->Take(now(), false).look_again,
            kStart + absl::Milliseconds(5));
  clock_.Advance(absl::Milliseconds(4));
  EXPECT_THAT(TakeBatch(), IsEmpty());
  clock_.Advance(absl::Milliseconds(1));
  EXPECT_THAT(TakeBatch(), SizeIs(1));

  Add(Context());
  Add(Context());
  EXPECT_THAT(TakeBatch(), SizeIs(2));
}

TEST_F(BatchQueueTest, DrainingDoesNotWait) {
  Make({.max_rows = 2, .max_age = absl::Seconds(5)});
  Add(Context());
  EXPECT_THAT(queue_->Take(now(), /*drain=*/true).batch, SizeIs(1));
}

// --- Order -------------------------------------------------------------------

TEST_F(BatchQueueTest, TheEarliestDeadlineGoesFirst) {
  Make({.max_rows = 1});
  BatchItem* const late = Add(Context(absl::Milliseconds(500)));
  BatchItem* const soon = Add(Context(absl::Milliseconds(100)));
  BatchItem* const soon_too = Add(contexts_.back());
  EXPECT_THAT(TakeBatch(), ElementsAre(soon));
  EXPECT_THAT(TakeBatch(), ElementsAre(soon_too));
  EXPECT_THAT(TakeBatch(), ElementsAre(late));
}

TEST_F(BatchQueueTest, ARowWithoutADeadlineIsDueAfterASecond) {
  Make({.max_rows = 1});
  BatchItem* const patient = Add(Context());
  clock_.Advance(absl::Milliseconds(600));
  BatchItem* const later = Add(Context(absl::Milliseconds(500)));
  BatchItem* const sooner = Add(Context(absl::Milliseconds(300)));
  EXPECT_THAT(TakeBatch(), ElementsAre(sooner));
  EXPECT_THAT(TakeBatch(), ElementsAre(patient));
  EXPECT_THAT(TakeBatch(), ElementsAre(later));
}

TEST_F(BatchQueueTest, RowsOfABatchAreOfSimilarSize) {
  BatchItem* const caption = Add(Context(), 16);
  BatchItem* const page = Add(Context(), 100);
  BatchItem* const word = Add(Context(), 3);
  BatchItem* const longer_page = Add(Context(), 128);
  BatchItem* const sentence = Add(Context(), 32);
  BatchItem* const huge = Add(Context(), 1'000'000);
  EXPECT_THAT(TakeBatch(), ElementsAre(caption, sentence));
  EXPECT_THAT(TakeBatch(), ElementsAre(page, longer_page));
  EXPECT_THAT(TakeBatch(), ElementsAre(word));
  EXPECT_THAT(TakeBatch(), ElementsAre(huge));
}

TEST_F(BatchQueueTest, RowsNearestInSizeGoFirstIntoABatch) {
  Make({.max_rows = 3});
  BatchItem* const first = Add(Context(), 16);
  BatchItem* const far = Add(Context(), 30);
  BatchItem* const near = Add(Context(), 18);
  BatchItem* const same = Add(Context(), 15);
  EXPECT_THAT(TakeBatch(), ElementsAre(first, same, near));
  EXPECT_THAT(TakeBatch(), ElementsAre(far));
}

TEST_F(BatchQueueTest, AFullBucketDoesNotWaitForAnOlderOne) {
  Make({.max_rows = 2, .max_age = absl::Milliseconds(5)});
  Add(Context(), 100);
  clock_.Advance(absl::Milliseconds(1));
  BatchItem* const a = Add(Context(), 1);
  BatchItem* const b = Add(Context(), 2);
  EXPECT_THAT(TakeBatch(), ElementsAre(a, b));
  EXPECT_THAT(TakeBatch(), IsEmpty());
}

// --- Lanes -------------------------------------------------------------------

TEST_F(BatchQueueTest, EveryFourthContestedBatchBeginsWithBulk) {
  Make({.max_rows = 1});
  const RequestContext& bulk = Context(absl::InfiniteDuration(), Lane::kBulk);
  for (int i = 0; i < 3; ++i) Add(bulk);
  for (int i = 0; i < 6; ++i) Add(Context());
  std::vector<Lane> lanes;
  for (int i = 0; i < 9; ++i) {
    lanes.push_back(TakeBatch().front()->context->lane());
  }
  constexpr Lane i = Lane::kInteractive;
  constexpr Lane b = Lane::kBulk;
  EXPECT_THAT(lanes, ElementsAre(i, i, i, b, i, i, i, b, b));
}

TEST_F(BatchQueueTest, BulkFillsWhatInteractiveRowsLeaveFree) {
  const RequestContext& bulk = Context(absl::InfiniteDuration(), Lane::kBulk);
  for (int i = 0; i < 5; ++i) Add(bulk);
  BatchItem* const interactive = Add(Context());
  const std::vector<BatchItem*> batch = TakeBatch();
  EXPECT_THAT(batch, SizeIs(4));
  EXPECT_EQ(batch.front(), interactive);
  EXPECT_THAT(TakeBatch(), SizeIs(2));
}

// --- Abandoned rows ----------------------------------------------------------

TEST_F(BatchQueueTest, DropsWhatNobodyWaitsFor) {
  RequestContext& cancelled = Context();
  BatchItem* const gone = Add(cancelled);
  BatchItem* const expired = Add(Context(absl::Milliseconds(1)));
  BatchItem* const awaited = Add(Context());
  cancelled.Cancel();
  clock_.Advance(absl::Milliseconds(2));
  const BatchQueue::Next next = queue_->Take(now(), false);
  EXPECT_THAT(next.batch, ElementsAre(awaited));
  EXPECT_THAT(next.dropped, testing::UnorderedElementsAre(gone, expired));
  EXPECT_EQ(queue_->rows(), 0);
}

TEST_F(BatchQueueTest, ABatchOfAbandonedRowsOnlyIsEmpty) {
  RequestContext& cancelled = Context();
  for (int i = 0; i < 6; ++i) Add(cancelled);
  cancelled.Cancel();
  const BatchQueue::Next next = queue_->Take(now(), false);
  EXPECT_THAT(next.batch, IsEmpty());
  EXPECT_THAT(next.dropped, SizeIs(6));
}

// --- Admission ---------------------------------------------------------------

TEST_F(BatchQueueTest, RefusesWhatTheQueueCannotHold) {
  Make({.max_rows = 4, .max_queued_rows = 5});
  EXPECT_THAT(AddAll(Rows(Context(), 3)), IsOk());
  const absl::Status refused = AddAll(Rows(Context(), 3));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("the limit is 5")));
  EXPECT_TRUE(GetRetryDelay(refused).has_value());
  EXPECT_EQ(queue_->rows(), 3);
  EXPECT_THAT(AddAll(Rows(Context(), 2)), IsOk());
}

TEST_F(BatchQueueTest, RefusesAnInteractiveCallThatWouldWaitTooLong) {
  Make({.max_rows = 4, .max_wait = absl::Milliseconds(100)});
  Learn();
  EXPECT_THAT(AddAll(Rows(Context(), 10)), IsOk());
  // 10 rows of 10 ms are ahead: exactly the limit.
  EXPECT_EQ(queue_->PredictWait(Lane::kInteractive), absl::Milliseconds(100));
  EXPECT_THAT(AddAll(Rows(Context(), 3)), IsOk());
  const absl::Status refused = AddAll(Rows(Context(), 1));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("130ms")));
  EXPECT_EQ(GetRetryDelay(refused), absl::Milliseconds(30));

  const RequestContext& bulk = Context(absl::InfiniteDuration(), Lane::kBulk);
  EXPECT_THAT(AddAll(Rows(bulk, 1)), IsOk());
}

TEST_F(BatchQueueTest, RefusesWhatWouldEndAfterItsDeadline) {
  Learn();
  EXPECT_THAT(AddAll(Rows(Context(), 5)), IsOk());
  const absl::Status refused = AddAll(Rows(Context(absl::Milliseconds(59)), 1));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("deadline")));
  EXPECT_THAT(AddAll(Rows(Context(absl::Milliseconds(60)), 1)), IsOk());
}

TEST_F(BatchQueueTest, AnIdleModelTriesEveryDeadline) {
  Learn();
  EXPECT_THAT(AddAll(Rows(Context(absl::Milliseconds(1)), 1)), IsOk());
}

TEST_F(BatchQueueTest, WhatRunsCountsUntilItHasRun) {
  Make({.max_rows = 4, .threads = 2});
  Learn();
  for (int i = 0; i < 6; ++i) Add(Context());
  const auto batch = TakeBatch();
  EXPECT_EQ(queue_->PredictWait(Lane::kInteractive), absl::Milliseconds(30));
  queue_->Ran(BatchQueue::CostOf(batch), absl::Milliseconds(40));
  EXPECT_EQ(queue_->PredictWait(Lane::kInteractive), absl::Milliseconds(10));
}

TEST_F(BatchQueueTest, BulkDoesNotMakeInteractiveCallsWait) {
  Make({.max_rows = 4, .max_wait = absl::Milliseconds(50)});
  Learn();
  const RequestContext& bulk = Context(absl::InfiniteDuration(), Lane::kBulk);
  EXPECT_THAT(AddAll(Rows(bulk, 1000)), IsOk());
  EXPECT_THAT(AddAll(Rows(Context(), 1)), IsOk());
  EXPECT_EQ(queue_->PredictWait(Lane::kBulk), absl::Milliseconds(10'010));
}

TEST_F(BatchQueueTest, AnAdmittedRowCountsBeforeItComes) {
  Make({.max_rows = 4, .max_queued_rows = 2});
  Learn();
  const RequestContext& context = Context();
  EXPECT_THAT(queue_->Admit(context, Lane::kInteractive, 2, 2, now()), IsOk());
  EXPECT_EQ(queue_->PredictWait(Lane::kInteractive), absl::Milliseconds(20));
  EXPECT_THAT(queue_->Admit(context, Lane::kInteractive, 1, 1, now()),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(TakeBatch(), IsEmpty());

  queue_->Withdraw(Lane::kInteractive, 1, 1);
  const std::vector<BatchItem*> rows = Rows(context, 1);
  queue_->Add(rows, now());
  EXPECT_THAT(TakeBatch(), SizeIs(1));
  EXPECT_EQ(queue_->rows(), 0);
}

TEST_F(BatchQueueTest, ACallOfNoRowsIsFine) {
  EXPECT_THAT(AddAll({}), IsOk());
  EXPECT_EQ(queue_->rows(), 0);
}

}  // namespace
}  // namespace quern
