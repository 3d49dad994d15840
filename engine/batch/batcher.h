#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "engine/base/clock.h"
#include "engine/batch/batch_queue.h"

namespace quern {

// Runs the rows of many callers together, on threads of its own. Thread-safe.
class Batcher {
 public:
  // Runs the rows of one batch. On an error no row counts as run. Called from
  // several threads at once.
  using Work = std::function<absl::Status(absl::Span<BatchItem* const>)>;

  // `name` is the threads'. `clock` must outlive the batcher.
  Batcher(const std::string& name, const BatchOptions& options,
          const Clock* clock, Work work);
  // Shutdown().
  ~Batcher();

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Waits until each row has run or failed, and sets its status. A batch that
  // fails is run again in halves, so that a row gets only an error of its own.
  // The rows are of one call: they share its context. Errors of a row:
  //   those of `work`
  //   kCancelled, kDeadlineExceeded  nobody waited when its turn came
  //   kResourceExhausted             as BatchQueue::Add(), for all rows
  //   kUnavailable                   after Shutdown(), for all rows
  void Run(absl::Span<BatchItem* const> items);

  // Refuses new rows, runs what waits, joins. Idempotent.
  void Shutdown();

  int64_t queued_rows() const;

 private:
  void Serve();
  // Waits for the next batch; empty when there will be none.
  std::vector<BatchItem*> TakeBatch();
  void RunOrSplit(absl::Span<BatchItem* const> batch) const;
  absl::Status Enqueue(absl::Span<BatchItem* const> items);

  const Clock* const clock_;
  const Work work_;

  mutable absl::Mutex mutex_;
  BatchQueue queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::CondVar changed_;
  std::vector<std::thread> threads_;
};

}  // namespace quern
