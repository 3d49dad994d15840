#include "engine/batch/batcher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include <pthread.h>

namespace quern {
namespace {

void Finish(BatchItem* item, absl::Status status) {
  item->status = std::move(status);
  // The last touch: the caller may be gone after it.
  item->unfinished->DecrementCount();
}

}  // namespace

Batcher::Batcher(const std::string& name, const BatchOptions& options,
                 const Clock* clock, Work work)
    : clock_(clock), work_(std::move(work)), queue_(options) {
  for (int64_t i = 0; i < options.threads; ++i) {
    threads_.emplace_back([this] { Serve(); });
    pthread_setname_np(threads_.back().native_handle(),
                       name.substr(0, 15).c_str());
  }
}

Batcher::~Batcher() { Shutdown(); }

void Batcher::Run(absl::Span<BatchItem* const> items) {
  absl::BlockingCounter unfinished(static_cast<int>(items.size()));
  for (BatchItem* item : items) item->unfinished = &unfinished;
  const absl::Status status = Enqueue(items);
  if (!status.ok()) {
    for (BatchItem* item : items) Finish(item, status);
  }
  unfinished.Wait();
}

absl::Status Batcher::Enqueue(absl::Span<BatchItem* const> items) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("the model is being unloaded");
  }
  absl::Status status = queue_.Add(items, clock_->Now());
  changed_.Signal();
  return status;
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

int64_t Batcher::queued_rows() const {
  absl::MutexLock lock(&mutex_);
  return queue_.rows();
}

void Batcher::Serve() {
  for (std::vector<BatchItem*> batch = TakeBatch(); !batch.empty();
       batch = TakeBatch()) {
    const int64_t cost = BatchQueue::CostOf(batch);
    const absl::Time start = clock_->Now();
    RunOrSplit(batch);
    absl::MutexLock lock(&mutex_);
    queue_.Ran(cost, clock_->Now() - start);
  }
}

std::vector<BatchItem*> Batcher::TakeBatch() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const absl::Time now = clock_->Now();
    BatchQueue::Next next = queue_.Take(now, stopping_);
    for (BatchItem* item : next.dropped) {
      Finish(item, item->context->Check("encode"));
    }
    if (!next.batch.empty()) {
      // Whoever added rows woke one thread only.
      if (queue_.rows() > 0) changed_.Signal();
      return std::move(next.batch);
    }
    if (stopping_) return {};
    changed_.WaitWithTimeout(&mutex_, next.look_again - now);
  }
}

void Batcher::RunOrSplit(absl::Span<BatchItem* const> batch) const {
  absl::Status status = work_(batch);
  if (status.ok() || batch.size() == 1) {
    for (BatchItem* item : batch) Finish(item, status);
    return;
  }
  const size_t half = batch.size() / 2;
  RunOrSplit(batch.first(half));
  RunOrSplit(batch.subspan(half));
}

}  // namespace quern
