#include "engine/query/upsert_session.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/query/fake_collection.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;

// Counts the writes that reach the store; a write can be made to wait.
class CountingItemStore final : public ForwardingItemStore {
 public:
  struct Gate {
    absl::Notification entered;  // The first write has come.
    absl::Notification open;     // It may go on.
    std::atomic<int> writes = 0;
  };

  CountingItemStore(std::shared_ptr<ItemStore> store, Gate* gate)
      : ForwardingItemStore(std::move(store)), gate_(gate) {}

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override {
    if (gate_->writes++ == 0) {
      gate_->entered.Notify();
      gate_->open.WaitForNotification();
    }
    return ForwardingItemStore::Put(items);
  }

 private:
  Gate* const gate_;
};

// Says that it is full while it is told to.
class FullVectorIndex final : public FakeVectorIndex {
 public:
  FullVectorIndex(int64_t dimension, const std::atomic<bool>* full)
      : FakeVectorIndex(dimension), full_(full) {}

  bool is_full() const override { return *full_; }

 private:
  const std::atomic<bool>* const full_;
};

class UpsertSessionTest : public ::testing::Test {
 protected:
  UpsertSessionTest() {
    CollectionFactories factories = disk_.Factories();
    factories.create_index =
        [this](const v1::Collection& record, const std::string&,
               ItemStore*) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      return std::make_unique<FullVectorIndex>(record.dimension(), &full_);
    };
    factories.open_store = [this](const std::string&, const v1::Collection&)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return std::make_unique<CountingItemStore>(
          std::make_shared<FakeItemStore>(2), &gate_);
    };
    collection_ = ValueOrDie(
        Collection::Open(directory_.path(), Record("c", 2), factories));
    session_ =
        UpsertSession::Create(&engine_, pool_.get(), &context_, collection_,
                              [this](std::vector<UpsertResult> results) {
                                absl::MutexLock lock(&mutex_);
                                for (UpsertResult& result : results) {
                                  results_.push_back(std::move(result));
                                }
                              });
  }

  void Add(const std::string& id, std::vector<float> embedding = {1, 0}) {
    session_->Add({.id = id, .content = EmbeddingInput{std::move(embedding)}},
                  nullptr);
  }

  std::vector<UpsertResult> WaitForResults() {
    pool_->Shutdown();
    absl::MutexLock lock(&mutex_);
    return results_;
  }

  RealClock clock_;
  Engine engine_{{}, nullptr, nullptr, nullptr};
  RequestContext context_{&clock_, "test"};
  TemporaryDirectory directory_;
  FakeDisk disk_;
  CountingItemStore::Gate gate_;
  std::atomic<bool> full_ = false;
  std::shared_ptr<Collection> collection_;
  std::unique_ptr<ThreadPool> pool_ =
      std::make_unique<ThreadPool>(ThreadPoolOptions{.threads = 4});
  std::shared_ptr<UpsertSession> session_;
  absl::Mutex mutex_;
  std::vector<UpsertResult> results_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(UpsertSessionTest, ResultsComeInTheOrderOfTheStream) {
  gate_.open.Notify();
  for (int i = 0; i < 200; ++i) {
    // Every third is bad: it must keep its place.
    Add(std::to_string(i),
        i % 3 == 0 ? std::vector<float>{1} : std::vector<float>{1, 0});
  }
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 200);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(results[i].index, i);
    EXPECT_EQ(results[i].id, std::to_string(i));
    EXPECT_EQ(results[i].status.ok(), i % 3 != 0);
  }
  EXPECT_EQ(session_->pending(), 0);
}

TEST_F(UpsertSessionTest, WhatIsReadyTogetherIsWrittenTogether) {
  Add("first");
  gate_.entered.WaitForNotification();
  for (int i = 0; i < 100; ++i) Add(std::to_string(i));
  // The pool's other threads prepare all of them while the first write waits.
  while (pool_->queued() > 0) std::this_thread::yield();
  gate_.open.Notify();
  ASSERT_EQ(WaitForResults().size(), 101);
  // The three that were still being prepared may come in writes of their own.
  EXPECT_LE(gate_.writes, 5);
}

TEST_F(UpsertSessionTest, OfEqualIdsTheLaterOneWins) {
  gate_.open.Notify();
  for (int i = 0; i < 50; ++i) Add("same", {1, 0});
  Add("same", {0, 1});
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 51);
  EXPECT_TRUE(results[0].created);
  for (size_t i = 1; i < results.size(); ++i) {
    EXPECT_FALSE(results[i].created) << i;
  }
  const auto items =
      ValueOrDie(collection_->store().Get({"same"}, {.embedding = true}));
  EXPECT_THAT(items[0]->embedding, ElementsAre(0, 1));
}

TEST_F(UpsertSessionTest, WaitsWhileTheIndexIsFull) {
  gate_.open.Notify();
  full_ = true;
  Add("a");
  EXPECT_FALSE(
      gate_.entered.WaitForNotificationWithTimeout(absl::Milliseconds(100)));
  full_ = false;
  gate_.entered.WaitForNotification();
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 1);
  EXPECT_THAT(results[0].status, IsOk());
}

TEST_F(UpsertSessionTest, WhoHasGoneWaitsForNoIndex) {
  gate_.open.Notify();
  full_ = true;
  Add("a");
  context_.Cancel();
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 1);
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(gate_.writes, 0);
}

TEST_F(UpsertSessionTest, RefusedMessagesKeepTheirPlace) {
  gate_.open.Notify();
  Add("a");
  session_->AddRefused("b", absl::InvalidArgumentError("no"));
  Add("c");
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 3);
  EXPECT_THAT(results[0].status, IsOk());
  EXPECT_THAT(results[1].status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(results[1].id, "b");
  EXPECT_THAT(results[2].status, IsOk());
}

TEST_F(UpsertSessionTest, AFailedWriteFailsItsItems) {
  gate_.open.Notify();
  collection_->Drop();
  Add("a");
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 1);
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(UpsertSessionTest, NothingIsWrittenForACallerWhoHasGone) {
  gate_.open.Notify();
  context_.Cancel();
  Add("a");
  const std::vector<UpsertResult> results = WaitForResults();
  ASSERT_EQ(results.size(), 1);
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(collection_->store().count(), 0);
}

}  // namespace
}  // namespace quern
