#include "engine/base/thread_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include <pthread.h>

#include "engine/base/error.h"
#include "engine/base/thread_priority.h"

namespace quern {
namespace {

constexpr absl::Duration kRetryDelay = absl::Milliseconds(50);

}  // namespace

ThreadPool::ThreadPool(ThreadPoolOptions options)
    : options_(std::move(options)), running_(options_.threads) {
  threads_.reserve(options_.threads);
  for (int i = 0; i < options_.threads; ++i) {
    threads_.emplace_back([this] { Run(); });
    pthread_setname_np(threads_.back().native_handle(),
                       options_.name.substr(0, 15).c_str());
  }
}

ThreadPool::~ThreadPool() { Shutdown(); }

absl::Status ThreadPool::Submit(Task task, Lane lane) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("the server is shutting down");
  }
  if (interactive_.size() + bulk_.size() >= options_.max_queue) {
    return Overloaded(absl::StrCat("the queue of ", options_.name, " is full: ",
                                   options_.max_queue, " requests are waiting"),
                      kRetryDelay);
  }
  (lane == Lane::kBulk ? bulk_ : interactive_).push_back(std::move(task));
  return absl::OkStatus();
}

void ThreadPool::Resume(Task task) {
  {
    absl::MutexLock lock(&mutex_);
    if (running_ > 0) {
      resumed_.push_back(std::move(task));
      return;
    }
  }
  task();
}

void ThreadPool::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

size_t ThreadPool::queued() const {
  absl::MutexLock lock(&mutex_);
  return Waiting();
}

ThreadPool::Task ThreadPool::TakeNext() {
  std::deque<Task>* queue = &resumed_;
  if (resumed_.empty()) {
    queue = interactive_.empty() ? &bulk_ : &interactive_;
    if (!interactive_.empty() && !bulk_.empty() &&
        ++contested_ % kBulkTurn == 0) {
      queue = &bulk_;
    }
  }
  Task task = std::move(queue->front());
  queue->pop_front();
  return task;
}

void ThreadPool::Run() {
  SetNiceness(options_.niceness);
  if (options_.leaves_first_core) LeaveFirstCore();
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || Waiting() > 0;
      };
      mutex_.Await(absl::Condition(&ready));
      if (Waiting() == 0) {
        --running_;
        return;
      }
      task = TakeNext();
    }
    task();
  }
}

}  // namespace quern
