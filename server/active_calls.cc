#include "server/active_calls.h"

namespace quern {

absl::Status ActiveCalls::Enter(RequestContext* context) {
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::UnavailableError("the server is shutting down");
  }
  contexts_.insert(context);
  return absl::OkStatus();
}

void ActiveCalls::Leave(RequestContext* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.erase(context);
}

void ActiveCalls::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void ActiveCalls::CancelAll() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  cancelled_ = true;
  for (RequestContext* context : contexts_) context->Cancel();
}

bool ActiveCalls::WaitUntilIdle(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto is_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return contexts_.empty() || cancelled_;
  };
  mutex_.AwaitWithTimeout(absl::Condition(&is_over), timeout);
  return contexts_.empty();
}

int64_t ActiveCalls::count() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(contexts_.size());
}

}  // namespace quern
