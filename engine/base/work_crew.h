#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace quern {

struct WorkCrewOptions {
  std::string name = "crew";  // Thread name, at most 15 characters are shown.
  int threads = 1;            // Beside the callers'; >= 0.
};

// Threads that lend a hand to callers whose work falls into pieces. A caller
// takes part itself and is helped by threads that are free: none is waited for,
// so where all are busy the caller works alone. Callers and their helpers
// together are kept to one more than the crew has threads, as far as callers
// let that be. Thread-safe.
class WorkCrew {
 public:
  // `worker` is at least 0 and below workers(); of pieces that run at one time
  // no two have the same. Must not throw.
  using Piece = absl::FunctionRef<absl::Status(int64_t piece, int worker)>;

  // Where the system has no more threads to give, the crew has fewer.
  explicit WorkCrew(WorkCrewOptions options);
  // No Run() may be under way.
  ~WorkCrew();

  WorkCrew(const WorkCrew&) = delete;
  WorkCrew& operator=(const WorkCrew&) = delete;

  // Calls `piece` once with each number from 0 to pieces - 1, on this thread
  // and others; they begin in order. After an error no more begin. Returns when
  // none runs any more. Waking a thread takes tens of microseconds: less work
  // is quicker done alone. Errors: that of a piece; of several, the first.
  absl::Status Run(int64_t pieces, Piece piece);

  int workers() const { return options_.threads + 1; }

 private:
  struct Job;

  // Does pieces of a job until there are none left.
  void Work(Job& job, int worker) ABSL_LOCKS_EXCLUDED(mutex_);
  // Opens a job to up to `wanted` threads; returns how many are to be woken.
  int Offer(Job* job, int64_t wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A thread's life.
  void Help() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for a job; null: the crew ends.
  Job* Join(int* worker) ABSL_LOCKS_EXCLUDED(mutex_);

  const WorkCrewOptions options_;
  absl::Mutex mutex_;
  absl::CondVar offered_;
  // Those that threads may join.
  std::deque<Job*> jobs_ ABSL_GUARDED_BY(mutex_);
  // Callers, threads that help them, and threads that were asked to.
  int busy_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quern
