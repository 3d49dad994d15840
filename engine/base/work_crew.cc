#include "engine/base/work_crew.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <pthread.h>

namespace quern {

// One call of Run(). What is not const or atomic is used with the crew's mutex
// held.
struct WorkCrew::Job {
  const Piece piece;
  const int64_t pieces;
  std::atomic<int64_t> next = 0;  // To begin; `pieces` after an error.
  absl::Status status;
  int places = 0;   // For threads that were asked and have not come yet.
  int workers = 1;  // That have come so far: the next one's number.
  int helping = 0;  // Threads at work now.
};

WorkCrew::WorkCrew(WorkCrewOptions options) : options_(std::move(options)) {
  threads_.reserve(options_.threads);
  for (int i = 0; i < options_.threads; ++i) {
    try {
      threads_.emplace_back([this] { Help(); });
    } catch (const std::system_error&) {
      return;  // The system has no more to give.
    }
    pthread_setname_np(threads_.back().native_handle(),
                       options_.name.substr(0, 15).c_str());
  }
}

WorkCrew::~WorkCrew() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  offered_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status WorkCrew::Run(int64_t pieces, Piece piece) {
  Job job{.piece = piece, .pieces = pieces};
  int asked = 0;
  {
    absl::MutexLock lock(&mutex_);
    ++busy_;
    asked = Offer(&job, pieces - 1);
  }
  for (int i = 0; i < asked; ++i) offered_.Signal();
  Work(job, 0);
  absl::MutexLock lock(&mutex_);
  if (job.places > 0) {
    busy_ -= job.places;  // They come too late.
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
  }
  const auto done = [&job] { return job.helping == 0; };
  mutex_.Await(absl::Condition(&done));
  --busy_;
  return std::move(job.status);
}

int WorkCrew::Offer(Job* job, int64_t wanted) {
  job->places = static_cast<int>(
      std::clamp<int64_t>(wanted, 0, std::max(0, workers() - busy_)));
  if (job->places > 0) jobs_.push_back(job);
  busy_ += job->places;
  return job->places;
}

void WorkCrew::Work(Job& job, int worker) {
  while (true) {
    const int64_t i = job.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= job.pieces) return;
    absl::Status status = job.piece(i, worker);
    if (status.ok()) continue;
    job.next.store(job.pieces, std::memory_order_relaxed);
    absl::MutexLock lock(&mutex_);
    job.status.Update(status);
    return;
  }
}

void WorkCrew::Help() {
  int worker = 0;
  while (Job* const job = Join(&worker)) {
    Work(*job, worker);
    absl::MutexLock lock(&mutex_);
    --job->helping;
    --busy_;
  }
}

WorkCrew::Job* WorkCrew::Join(int* worker) {
  absl::MutexLock lock(&mutex_);
  while (jobs_.empty() && !stopping_) offered_.Wait(&mutex_);
  if (jobs_.empty()) return nullptr;
  Job* const job = jobs_.front();
  if (--job->places == 0) jobs_.pop_front();
  *worker = job->workers++;
  ++job->helping;
  return job;
}

}  // namespace quern
