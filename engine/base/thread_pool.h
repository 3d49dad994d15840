#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace quern {

struct ThreadPoolOptions {
  std::string name = "pool";  // Thread name, at most 15 characters are shown.
  int threads = 1;            // >= 1.
  size_t max_queue = 1024;    // Tasks waiting, not running; >= 1.
};

// A fixed set of threads over one bounded first-in-first-out queue.
// Thread-safe.
class ThreadPool {
 public:
  using Task = std::function<void()>;

  explicit ThreadPool(ThreadPoolOptions options);
  // Runs what is queued, then joins the threads.
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Never waits for room. On error the task will not run.
  // Errors:
  //   kResourceExhausted  the queue is full: back off
  //   kUnavailable        Shutdown() was called
  absl::Status Submit(Task task);

  // Refuses new tasks, runs what is queued, joins. Idempotent.
  void Shutdown();

  size_t queued() const;
  int threads() const { return options_.threads; }

 private:
  void Run();

  const ThreadPoolOptions options_;
  mutable absl::Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quern
