#include "engine/store/bulk_env.h"

#include <memory>

#include "engine/base/thread_priority.h"

namespace quern {
namespace {

struct Job {
  void (*function)(void*);
  void* argument;
  void (*unscheduled)(void*);  // Null: nothing is to be done.
};

// RocksDB's threads serve all stores of the process and are its own: each is
// set up by its first job.
void Run(void* job_pointer) {
  static thread_local const bool is_bulk = [] {
    SetNiceness(kBulkNiceness);
    LeaveFirstCore();
    return true;
  }();
  (void)is_bulk;
  const std::unique_ptr<const Job> job(static_cast<const Job*>(job_pointer));
  job->function(job->argument);
}

void Unschedule(void* job_pointer) {
  const std::unique_ptr<const Job> job(static_cast<const Job*>(job_pointer));
  if (job->unscheduled != nullptr) job->unscheduled(job->argument);
}

}  // namespace

void BulkEnv::Schedule(void (*function)(void*), void* argument,
                       Priority priority, void* tag,
                       void (*unscheduled)(void*)) {
  EnvWrapper::Schedule(&Run,
                       std::make_unique<Job>(Job{.function = function,
                                                 .argument = argument,
                                                 .unscheduled = unscheduled})
                           .release(),
                       priority, tag, &Unschedule);
}

}  // namespace quern
