#include "engine/store/expiry.h"

#include <algorithm>

namespace quern {

Expiry::View Expiry::Look(uint64_t last_sequence) {
  absl::MutexLock lock(&mutex_);
  View view;
  view.now_ = clock_->Now();
  // A peak that the clock has reached again says nothing more than this one.
  while (!peaks_.empty() && peaks_.back().time <= view.now_) peaks_.pop_back();
  peaks_.push_back({view.now_, last_sequence});
  view.peaks_ = peaks_;
  return view;
}

void Expiry::Forget(const View& view) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(peaks_, [&](const View::Peak& peak) {
    return std::any_of(view.peaks_.begin(), view.peaks_.end(),
                       [&](const View::Peak& done) {
                         return peak.time <= done.time &&
                                peak.last_sequence <= done.last_sequence;
                       });
  });
}

}  // namespace quern
