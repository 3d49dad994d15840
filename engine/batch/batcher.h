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

// What a batcher has done since it began, and holds.
struct BatcherStats {
  int64_t queued_rows = 0;  // Admitted, not running yet.
  int64_t rows = 0;         // Run.
  int64_t batches = 0;      // Run.
  int64_t dropped_rows = 0;  // Nobody waited any more when their turn came.
  int64_t refused_rows = 0;  // Not admitted.
};

// Runs the rows of many callers together, on threads of its own.
//
// Life of a row: Admit() -> (the caller decodes) -> Submit() -> a batch -> Done,
// or Withdraw(). Thread-safe.
class Batcher {
 public:
  // Runs the rows of one batch. On an error no row counts as run. Called from
  // several threads at once.
  using Work = std::function<absl::Status(absl::Span<BatchItem* const>)>;

  // Hands a row back, its status set, on a batcher's thread; the batcher does
  // not touch it any more. Must be quick: the next batch waits.
  using Done = std::function<void(BatchItem*)>;

  // `name` is the threads'. `clock` must outlive the batcher.
  Batcher(const std::string& name, const BatchOptions& options,
          const Clock* clock, Work work, Done done);
  // Shutdown().
  ~Batcher();

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Lets rows of one call in; each must then come by Submit() or go by
  // Withdraw(). Errors: those of BatchQueue::Admit(); kUnavailable after
  // Shutdown().
  absl::Status Admit(const RequestContext& context, Lane lane, int64_t rows,
                     int64_t cost);
  void Withdraw(Lane lane, int64_t rows, int64_t cost);

  // Takes rows that were admitted; each comes back through Done, also after a
  // Shutdown() that began in between. A batch that fails is run again in
  // halves, so that a row gets only an error of its own. Errors of a row:
  //   those of `work`
  //   kCancelled, kDeadlineExceeded  nobody waited when its turn came
  //   kUnavailable                   it came after Shutdown()
  void Submit(absl::Span<BatchItem* const> items);

  // Refuses new rows, runs what waits, joins. Idempotent.
  void Shutdown();

  BatcherStats stats() const;

 private:
  void Serve();
  // Waits for the next batch; empty when there will be none.
  std::vector<BatchItem*> TakeBatch();
  void RunOrSplit(absl::Span<BatchItem* const> batch) const;

  const Clock* const clock_;
  const Work work_;
  const Done done_;

  mutable absl::Mutex mutex_;
  BatchQueue queue_ ABSL_GUARDED_BY(mutex_);
  BatcherStats stats_ ABSL_GUARDED_BY(mutex_);  // But for queued_rows.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::CondVar changed_;
  std::vector<std::thread> threads_;
};

}  // namespace quern
