#include "engine/store/id_locks.h"

#include <algorithm>
#include <utility>

namespace quern {

IdLocks::Holder::Holder(IdLocks& locks, std::vector<absl::string_view> ids)
    : locks_(locks), ids_(std::move(ids)) {
  absl::MutexLock lock(&locks_.mutex_);
  auto all_free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(locks_.mutex_) {
    return std::none_of(ids_.begin(), ids_.end(),
                        [this](absl::string_view id)
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(locks_.mutex_) {
                              return locks_.held_.contains(id);
                            });
  };
  locks_.mutex_.Await(absl::Condition(&all_free));
  locks_.held_.insert(ids_.begin(), ids_.end());
}

IdLocks::Holder::~Holder() {
  absl::MutexLock lock(&locks_.mutex_);
  for (absl::string_view id : ids_) locks_.held_.erase(id);
}

}  // namespace quern
