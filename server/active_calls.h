#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"

namespace quern {

// The calls under way, so that a server can drain. Thread-safe.
class ActiveCalls {
 public:
  // Errors: kUnavailable after Close(); the call then does not count.
  absl::Status Enter(RequestContext* context);
  void Leave(RequestContext* context);

  // Refuses calls from now on.
  void Close();

  // Close(), and cancels the calls under way.
  void CancelAll();

  // Returns when no call is under way, `timeout` has passed, or CancelAll()
  // was called; whether none is under way.
  bool WaitUntilIdle(absl::Duration timeout);

  int64_t count() const;

 private:
  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<RequestContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
