#include "engine/batch/batcher.h"

#include <utility>

#include <pthread.h>

#include "engine/base/thread_priority.h"

namespace quern {
Batcher::Batcher(const std::string& name, const BatchOptions& options,
                 const Clock* clock, Work work, Done done)
    : clock_(clock),
      work_(std::move(work)),
      done_(std::move(done)),
      queue_(options) {
  for (int64_t i = 0; i < options.threads; ++i) {
    threads_.emplace_back([this] { Serve(); });
    pthread_setname_np(threads_.back().native_handle(),
                       name.substr(0, 15).c_str());
  }
}

Batcher::~Batcher() { Shutdown(); }

absl::Status Batcher::Admit(const RequestContext& context, Lane lane,
                            int64_t rows, int64_t cost) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("the model is being unloaded");
  }
  absl::Status status = queue_.Admit(context, lane, rows, cost, clock_->Now());
  if (!status.ok()) stats_.refused_rows += rows;
  return status;
}

void Batcher::Withdraw(Lane lane, int64_t rows, int64_t cost) {
  absl::MutexLock lock(&mutex_);
  queue_.Withdraw(lane, rows, cost);
}

void Batcher::Submit(absl::Span<BatchItem* const> items) {
  if (items.empty()) return;
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      queue_.Add(items, clock_->Now());
      changed_.Signal();
      return;
    }
    for (BatchItem* item : items) queue_.Withdraw(item->lane, 1, item->size);
  }
  for (BatchItem* item : items) {
    item->status = absl::UnavailableError("the model is being unloaded");
    done_(item);
  }
}

void Batcher::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

BatcherStats Batcher::stats() const {
  absl::MutexLock lock(&mutex_);
  BatcherStats stats = stats_;
  stats.queued_rows = queue_.rows();
  return stats;
}

void Batcher::Serve() {
  // A tower keeps its core busy for milliseconds; whoever takes, refuses or
  // answers a call in microseconds goes first.
  SetNiceness(kBulkNiceness);
  for (std::vector<BatchItem*> batch = TakeBatch(); !batch.empty();
       batch = TakeBatch()) {
    const int64_t cost = BatchQueue::CostOf(batch);
    const auto rows = static_cast<int64_t>(batch.size());
    const absl::Time start = clock_->Now();
    RunOrSplit(batch);
    absl::MutexLock lock(&mutex_);
    queue_.Ran(cost, clock_->Now() - start);
    stats_.rows += rows;
    ++stats_.batches;
  }
}

std::vector<BatchItem*> Batcher::TakeBatch() {
  while (true) {
    BatchQueue::Next next;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time now = clock_->Now();
      next = queue_.Take(now, stopping_);
      if (next.batch.empty() && next.dropped.empty()) {
        if (stopping_) return {};
        changed_.WaitWithTimeout(&mutex_, next.look_again - now);
        continue;
      }
      stats_.dropped_rows += static_cast<int64_t>(next.dropped.size());
      // Whoever added rows woke one thread only.
      if (queue_.rows() > 0) changed_.Signal();
    }
    for (BatchItem* item : next.dropped) done_(item);
    if (!next.batch.empty()) return std::move(next.batch);
  }
}

void Batcher::RunOrSplit(absl::Span<BatchItem* const> batch) const {
  const absl::Status status = work_(batch);
  if (status.ok() || batch.size() == 1) {
    for (BatchItem* item : batch) {
      item->status = status;
      done_(item);
    }
    return;
  }
  const size_t half = batch.size() / 2;
  RunOrSplit(batch.first(half));
  RunOrSplit(batch.subspan(half));
}

}  // namespace quern
