#include "engine/query/jobs.h"

#include <algorithm>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/time_util.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_priority.h"

namespace quern {
namespace {

constexpr absl::Duration kTryAgainAfter = absl::Seconds(10);

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  return google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      absl::ToUnixNanos(time));
}

std::string NameOf(JobKind kind) {
  return kind == JobKind::kReindex ? "reindex" : "optimize";
}

}  // namespace

Jobs::Jobs(JobsOptions options)
    : options_(options),
      optimizing_(&Jobs::Run, this, JobKind::kOptimize),
      reindexing_(&Jobs::Run, this, JobKind::kReindex) {}

Jobs::~Jobs() {
  Close();
  optimizing_.join();
  reindexing_.join();
}

absl::StatusOr<v1::Job> Jobs::Optimize(
    const std::shared_ptr<Collection>& collection) {
  return Start(
      collection,
      {.kind = JobKind::kOptimize,
       .doing = "puts the index into its best form",
       .run = [collection](RequestContext& context, const JobReport& report)
           -> absl::StatusOr<std::string> {
         QUERN_RETURN_IF_ERROR(collection->mutable_index().Optimize(
             context, [&](float progress) { report(progress, ""); }));
         return "the index is in its best form";
       }});
}

absl::StatusOr<v1::Job> Jobs::Start(
    const std::shared_ptr<Collection>& collection, JobWork work) {
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
    if (entry.collection != collection) continue;
    if (entry.work.kind == work.kind && entry.work.subject == work.subject) {
      return entry.job;
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "collection ", Quoted(collection->name()), " has a job that has not ",
        "ended, ", Quoted(entry.job.id()), " (", entry.job.kind(),
        entry.work.subject.empty() ? "" : " with ", entry.work.subject,
        "): wait for its end (GetJob)"));
  }
  if (!MakeRoom()) {
    return Overloaded(
        absl::StrCat(options_.max_jobs, " jobs have not ended: try again"),
        kTryAgainAfter);
  }
  v1::Job job;
  job.set_id(NewId());
  job.set_kind(NameOf(work.kind));
  job.set_collection(collection->name());
  job.set_state(v1::Job::STATE_PENDING);
  job.set_message("waits for its turn");
  return entries_
      .emplace_back(options_.clock, std::move(job), collection, std::move(work))
      .job;
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
  std::vector<Released> released;
  absl::MutexLock lock(&mutex_);
  released = Stop(/*only_dropped=*/true, "the collection was deleted");
}

void Jobs::Close() {
  std::vector<Released> released;
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  released = Stop(/*only_dropped=*/false, "the server was shut down");
}

std::vector<Jobs::Released> Jobs::Stop(bool only_dropped,
                                       absl::string_view reason) {
  std::vector<Released> released;
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

void Jobs::Run(JobKind kind) {
  SetNiceness(kBackgroundNiceness);
  while (Entry* const entry = Begin(kind)) {
    // Nobody else changes the work of a job that runs.
    End(entry,
        entry->work.run(entry->context,
                        [this, entry](float progress, std::string doing) {
                          SetProgress(entry, progress, std::move(doing));
                        }));
  }
}

Jobs::Entry* Jobs::Next(JobKind kind) {
  const auto next =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
        return entry.job.state() == v1::Job::STATE_PENDING &&
               entry.work.kind == kind;
      });
  return next == entries_.end() ? nullptr : &*next;
}

Jobs::Entry* Jobs::Begin(JobKind kind) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = nullptr;
  const auto has_work = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry = Next(kind);
    return closing_ || entry != nullptr;
  };
  mutex_.Await(absl::Condition(&has_work));
  if (closing_) return nullptr;
  entry->job.set_state(v1::Job::STATE_RUNNING);
  entry->job.set_message(entry->work.doing);
  *entry->job.mutable_start_time() = ToTimestamp(options_.clock->Now());
  return entry;
}

void Jobs::SetProgress(Entry* entry, float progress, std::string doing) {
  absl::MutexLock lock(&mutex_);
  entry->job.set_progress(std::clamp(progress, entry->job.progress(), 1.0F));
  if (!doing.empty()) entry->job.set_message(std::move(doing));
}

void Jobs::End(Entry* entry, absl::StatusOr<std::string> result) {
  Released released;
  absl::MutexLock lock(&mutex_);
  if (absl::IsCancelled(result.status()) && !entry->stop_reason.empty()) {
    result = absl::CancelledError(entry->stop_reason);
  }
  released = EndHeld(*entry, std::move(result));
}

Jobs::Released Jobs::EndHeld(Entry& entry, absl::StatusOr<std::string> result) {
  v1::Job& job = entry.job;
  if (result.ok()) {
    job.set_state(v1::Job::STATE_SUCCEEDED);
    job.set_progress(1);
    job.set_message(*std::move(result));
  } else {
    job.set_state(v1::Job::STATE_FAILED);
    job.set_message(std::string(result.status().message()));
  }
  *job.mutable_end_time() = ToTimestamp(options_.clock->Now());
  return {std::exchange(entry.collection, nullptr),
          std::exchange(entry.work, {})};
}

}  // namespace quern
