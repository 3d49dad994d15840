#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/clock.h"
#include "engine/base/request_context.h"
#include "engine/query/collection.h"
#include "quern/v1/collections.pb.h"

namespace quern {

struct JobsOptions {
  const Clock* clock = nullptr;  // Must outlive the jobs.
  // Known at once, >= 1: of those that have ended the oldest are forgotten.
  size_t max_jobs = 1000;
};

enum class JobKind { kOptimize, kReindex };

// How far a job is, in [0, 1], and what it is doing; "" as before.
using JobReport = std::function<void(float progress, std::string doing)>;

// What a job does.
struct JobWork {
  JobKind kind = JobKind::kOptimize;
  std::string subject;  // What tells it from others of its kind: the model.
  std::string doing;    // A sentence, for the job's message while it runs.
  // Returns the message of a job that succeeded. Asks its context all along.
  std::function<absl::StatusOr<std::string>(RequestContext&, const JobReport&)>
      run;
};

// Long work on collections: of each kind one job at a time, in the order they
// came, on a thread of the kind's own and at low priority. Jobs do not outlive
// the process. Thread-safe.
class Jobs {
 public:
  explicit Jobs(JobsOptions options);
  // Close(), then waits until the job at work has noticed.
  ~Jobs();

  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;

  // Takes a job of the collection. While one of the same kind and subject has
  // not ended this is that job. Errors:
  //   kFailedPrecondition  the collection takes no writes; another job of it
  //   has
  //                        not ended
  //   kNotFound            it has been dropped
  //   kResourceExhausted   `max_jobs` have not ended
  //   kUnavailable         after Close()
  absl::StatusOr<v1::Job> Start(const std::shared_ptr<Collection>& collection,
                                JobWork work);
  // Has the collection's index put into its best form.
  absl::StatusOr<v1::Job> Optimize(
      const std::shared_ptr<Collection>& collection);

  // Errors: kNotFound for an id that is not known, or not any more.
  absl::StatusOr<v1::Job> Get(absl::string_view id) const;

  // Jobs of the collection of this name that have not ended, oldest first.
  std::vector<v1::Job> Unfinished(absl::string_view collection) const;

  // Ends the jobs of collections that have been dropped, as failed: one that
  // waits at once, the one at work soon.
  void EndDropped();

  // Ends all jobs likewise and takes no more. Idempotent.
  void Close();

 private:
  struct Entry {
    Entry(const Clock* clock, v1::Job new_job,
          std::shared_ptr<Collection> of_collection, JobWork its_work)
        : job(std::move(new_job)),
          collection(std::move(of_collection)),
          work(std::move(its_work)),
          context(clock, job.id(), absl::InfiniteFuture(), Lane::kBulk) {}

    bool ended() const { return collection == nullptr; }

    v1::Job job;
    std::shared_ptr<Collection> collection;  // Null once the job has ended.
    JobWork work;                            // Likewise.
    RequestContext context;
    std::string stop_reason;  // Set before the context is cancelled.
  };

  // What a job held, whose last owner must not be one with the mutex.
  struct Released {
    std::shared_ptr<Collection> collection;
    JobWork work;
  };

  void Run(JobKind kind);
  // A job that waits; null without one.
  Entry* Next(JobKind kind) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits for a job and says that it runs; null when closing. The entry stays
  // where it is until End().
  Entry* Begin(JobKind kind);
  void SetProgress(Entry* entry, float progress, std::string doing);
  void End(Entry* entry, absl::StatusOr<std::string> result);
  Released EndHeld(Entry& entry, absl::StatusOr<std::string> result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Released> Stop(bool only_dropped, absl::string_view reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether there is room for one more.
  bool MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string NewId() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const JobsOptions options_;
  mutable absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // Oldest first.
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread optimizing_;
  std::thread reindexing_;
};

}  // namespace quern
