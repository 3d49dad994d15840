#include "engine/query/fine_stage.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include <pthread.h>

namespace quern {
namespace {

// Of the time left to a call, what the stage may take.
constexpr double kShareOfDeadline = 0.8;
// Between two looks at the calls that wait.
constexpr absl::Duration kWatchInterval = absl::Milliseconds(10);

}  // namespace

// One short list, from Run() to the end of its work, whoever still waits.
class FineStage::Call {
 public:
  Call(const RequestContext& caller, absl::Time deadline, Work work, Done done,
       ThreadPool* calls)
      : caller_(&caller),
        context_(&caller.clock(), caller.id(), deadline, caller.lane()),
        work_(std::move(work)),
        done_(std::move(done)),
        calls_(calls) {}

  void Run() {
    absl::Status status = context_.Check("rerank");
    Finish(status.ok() ? work_(context_)
                       : absl::StatusOr<FineScores>(std::move(status)));
  }

  // The first one's result counts.
  void Finish(absl::StatusOr<FineScores> result) {
    Done done;
    {
      absl::MutexLock lock(&mutex_);
      if (caller_ == nullptr) return;
      caller_ = nullptr;
      done = std::move(done_);
    }
    calls_->Resume([done = std::move(done), result = std::move(result)]() {
      done(result);
    });
  }

  // Whether it is over; ends it when its time has come.
  bool Look() {
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      if (caller_ == nullptr) return true;
      // The caller lives while this is so.
      if (caller_->cancelled()) {
        status = absl::CancelledError("the caller has gone");
      } else {
        status = context_.Check("rerank");
      }
    }
    if (status.ok()) return false;
    context_.Cancel();
    Finish(std::move(status));
    return true;
  }

  void Cancel() { context_.Cancel(); }

 private:
  absl::Mutex mutex_;
  // Null: `done_` was called.
  const RequestContext* caller_ ABSL_GUARDED_BY(mutex_);
  RequestContext context_;
  const FineStage::Work work_;
  Done done_ ABSL_GUARDED_BY(mutex_);
  ThreadPool* const calls_;
};

FineStage::FineStage(const FineStageOptions& options, ThreadPool* calls)
    : options_(options),
      calls_(calls),
      threads_({.name = options.name,
                .threads = options.threads,
                .max_queue = options.max_queue,
                .niceness = options.niceness}),
      watcher_([this] { Watch(); }) {
  pthread_setname_np(watcher_.native_handle(),
                     absl::StrCat(options.name, "-watch").c_str());
}

FineStage::~FineStage() { Shutdown(); }

void FineStage::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const std::shared_ptr<Call>& call : waiting_) call->Cancel();
  }
  if (watcher_.joinable()) watcher_.join();
  threads_.Shutdown();
}

void FineStage::Run(const RequestContext& context, Work work, Done done) {
  const absl::Time now = context.clock().Now();
  const absl::Time deadline =
      now +
      std::min(options_.timeout, (context.deadline() - now) * kShareOfDeadline);
  const auto call = std::make_shared<Call>(context, deadline, std::move(work),
                                           std::move(done), calls_);
  {
    absl::MutexLock lock(&mutex_);
    waiting_.push_back(call);
  }
  const absl::Status status =
      threads_.Submit([call] { call->Run(); }, context.lane());
  if (!status.ok()) call->Finish(status);
}

void FineStage::Watch() {
  absl::MutexLock lock(&mutex_);
  const auto is_needed = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !waiting_.empty();
  };
  const auto is_stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_;
  };
  for (;;) {
    mutex_.Await(absl::Condition(&is_needed));
    if (stopping_) return;
    // Looking calls back, maybe into Run().
    std::vector<std::shared_ptr<Call>> calls = std::move(waiting_);
    waiting_.clear();
    mutex_.Unlock();
    calls.erase(std::remove_if(calls.begin(), calls.end(),
                               [](const std::shared_ptr<Call>& call) {
                                 return call->Look();
                               }),
                calls.end());
    mutex_.Lock();
    waiting_.insert(waiting_.end(), calls.begin(), calls.end());
    mutex_.AwaitWithTimeout(absl::Condition(&is_stopping), kWatchInterval);
  }
}

}  // namespace quern
