#include "engine/query/expiry_sweep.h"

#include <memory>

namespace quern {

ExpirySweep::ExpirySweep(const Catalog* catalog, absl::Duration interval)
    : catalog_(catalog),
      interval_(interval),
      thread_(&ExpirySweep::Run, this) {}

ExpirySweep::~ExpirySweep() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  thread_.join();
}

void ExpirySweep::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&closing_), interval_)) {
        return;
      }
    }
    Round();
  }
}

void ExpirySweep::Round() {
  for (const std::shared_ptr<Collection>& collection : catalog_->Opened()) {
    // A collection that is dropped or read-only now is tried again next time;
    // its status says what is wrong.
    absl::StatusOr<bool> more = true;
    // Much quicker than to remove it, and a replica can do no more.
    while (more.ok() && *more && !closing()) more = collection->HideExpired();
    more = true;
    while (more.ok() && *more && !closing()) more = collection->RemoveExpired();
  }
}

}  // namespace quern
