#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/lane.h"

namespace quern {

struct ThreadPoolOptions {
  std::string name = "pool";  // Thread name, at most 15 characters are shown.
  int threads = 1;            // >= 1.
  size_t max_queue = 1024;    // Tasks waiting, not running; >= 1.
  int niceness = 0;  // Of the threads, 0 to 19; 0 is that of the process.
  // See LeaveFirstCore().
  bool leaves_first_core = false;
};

// A fixed set of threads over one bounded queue: what was resumed goes first,
// then interactive tasks, each in order of arrival; while bulk tasks wait too,
// every fourth is one of them. Thread-safe.
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
  absl::Status Submit(Task task, Lane lane = Lane::kInteractive);

  // Goes on with work that was admitted before: never refused, whatever waits,
  // and run also by a Shutdown() under way. After a Shutdown() it runs at once,
  // on the caller's thread.
  void Resume(Task task);

  // Refuses new tasks, runs what is queued, joins. Idempotent.
  void Shutdown();

  size_t queued() const;
  int threads() const { return options_.threads; }

 private:
  void Run();
  Task TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t Waiting() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return resumed_.size() + interactive_.size() + bulk_.size();
  }

  const ThreadPoolOptions options_;
  mutable absl::Mutex mutex_;
  std::deque<Task> resumed_ ABSL_GUARDED_BY(mutex_);
  std::deque<Task> interactive_ ABSL_GUARDED_BY(mutex_);
  std::deque<Task> bulk_ ABSL_GUARDED_BY(mutex_);
  int64_t contested_ ABSL_GUARDED_BY(mutex_) = 0;  // Turns both lanes wanted.
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // Threads that have not left.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quern
