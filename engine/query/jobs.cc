#include "engine/query/jobs.h"

#include <algorithm>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/time_util.h"
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/error.h"

namespace quern {
namespace {

// Searches and writes go first.
constexpr int kNiceness = 10;
constexpr char kOptimize[] = "optimize";
constexpr absl::Duration kTryAgainAfter = absl::Seconds(10);

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  return google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      absl::ToUnixNanos(time));
}

}  // namespace

Jobs::Jobs(JobsOptions options)
    : options_(options), thread_(&Jobs::Run, this) {}

Jobs::~Jobs() {
  Close();
  thread_.join();
}

absl::StatusOr<v1::Job> Jobs::Optimize(
    const std::shared_ptr<Collection>& collection) {
  if (const absl::Status writes = collection->store().write_status();
      !writes.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection ", Quoted(collection->name()),
                     " is read-only: ", writes.message()));
  }
  absl::MutexLock lock(&mutex_);
  if (closing_) return absl::UnavailableError("the server is shutting down");
  // With the mutex held: whoever drops it now calls EndDropped() after this.
  if (collection->dropped()) return NotFound("collection", collection->name());
  for (const Entry& entry : entries_) {
    if (entry.collection == collection) return entry.job;
  }
  if (!MakeRoom()) {
    return Overloaded(
        absl::StrCat(options_.max_jobs, " jobs have not ended: try again"),
        kTryAgainAfter);
  }
  v1::Job job;
  job.set_id(NewId());
  job.set_kind(kOptimize);
  job.set_collection(collection->name());
  job.set_state(v1::Job::STATE_PENDING);
  job.set_message("waits for its turn");
  return entries_.emplace_back(options_.clock, std::move(job), collection).job;
}

std::string Jobs::NewId() const {
  absl::BitGen random;
  while (true) {
    std::string id = absl::StrFormat("%016x", absl::Uniform<uint64_t>(random));
    if (std::none_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
          return entry.job.id() == id;
        })) {
      return id;
    }
  }
}

bool Jobs::MakeRoom() {
  if (entries_.size() < options_.max_jobs) return true;
  const auto oldest =
      std::find_if(entries_.begin(), entries_.end(),
                   [](const Entry& entry) { return entry.ended(); });
  if (oldest == entries_.end()) return false;
  entries_.erase(oldest);
  return true;
}

absl::StatusOr<v1::Job> Jobs::Get(absl::string_view id) const {
  absl::MutexLock lock(&mutex_);
  for (const Entry& entry : entries_) {
    if (entry.job.id() == id) return entry.job;
  }
  return NotFound("job", id);
}

std::vector<v1::Job> Jobs::Unfinished(absl::string_view collection) const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::Job> unfinished;
  for (const Entry& entry : entries_) {
    // The name of a dropped one may be another's by now.
    if (entry.ended() || entry.job.collection() != collection ||
        entry.collection->dropped()) {
      continue;
    }
    unfinished.push_back(entry.job);
  }
  return unfinished;
}

void Jobs::EndDropped() {
  std::vector<std::shared_ptr<Collection>> released;
  absl::MutexLock lock(&mutex_);
  released = Stop(/*only_dropped=*/true, "the collection was deleted");
}

void Jobs::Close() {
  std::vector<std::shared_ptr<Collection>> released;
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  released = Stop(/*only_dropped=*/false, "the server was shut down");
}

std::vector<std::shared_ptr<Collection>> Jobs::Stop(bool only_dropped,
                                                    absl::string_view reason) {
  std::vector<std::shared_ptr<Collection>> released;
  for (Entry& entry : entries_) {
    if (entry.ended()) continue;
    if (only_dropped && !entry.collection->dropped()) continue;
    if (entry.job.state() == v1::Job::STATE_PENDING) {
      released.push_back(EndHeld(entry, absl::CancelledError(reason)));
    } else if (entry.stop_reason.empty()) {
      entry.stop_reason = std::string(reason);
      entry.context.Cancel();
    }
  }
  return released;
}

void Jobs::Run() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceness);
  while (Entry* const entry = Begin()) {
    // Nobody else changes the collection of a job that runs.
    End(entry, entry->collection->mutable_index().Optimize(
                   entry->context, [this, entry](float progress) {
                     SetProgress(entry, progress);
                   }));
  }
}

bool Jobs::HasWork() const {
  return closing_ ||
         std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) {
           return entry.job.state() == v1::Job::STATE_PENDING;
         });
}

Jobs::Entry* Jobs::Begin() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &Jobs::HasWork));
  if (closing_) return nullptr;
  Entry& entry = *std::find_if(
      entries_.begin(), entries_.end(), [](const Entry& candidate) {
        return candidate.job.state() == v1::Job::STATE_PENDING;
      });
  entry.job.set_state(v1::Job::STATE_RUNNING);
  entry.job.set_message("puts the index into its best form");
  *entry.job.mutable_start_time() = ToTimestamp(options_.clock->Now());
  return &entry;
}

void Jobs::SetProgress(Entry* entry, float progress) {
  absl::MutexLock lock(&mutex_);
  entry->job.set_progress(std::clamp(progress, entry->job.progress(), 1.0F));
}

void Jobs::End(Entry* entry, const absl::Status& status) {
  std::shared_ptr<Collection> released;
  absl::MutexLock lock(&mutex_);
  const bool stopped = absl::IsCancelled(status) && !entry->stop_reason.empty();
  released = EndHeld(
      *entry, stopped ? absl::CancelledError(entry->stop_reason) : status);
}

std::shared_ptr<Collection> Jobs::EndHeld(Entry& entry,
                                          const absl::Status& status) {
  v1::Job& job = entry.job;
  if (status.ok()) {
    job.set_state(v1::Job::STATE_SUCCEEDED);
    job.set_progress(1);
    job.set_message("the index is in its best form");
  } else {
    job.set_state(v1::Job::STATE_FAILED);
    job.set_message(std::string(status.message()));
  }
  *job.mutable_end_time() = ToTimestamp(options_.clock->Now());
  return std::exchange(entry.collection, nullptr);
}

}  // namespace quern
