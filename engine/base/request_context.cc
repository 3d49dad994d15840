#include "engine/base/request_context.h"

#include "absl/strings/str_cat.h"

namespace quern {

absl::Status RequestContext::Check(absl::string_view stage) const {
  if (cancelled()) {
    return absl::CancelledError(
        absl::StrCat("the caller cancelled the request before ", stage));
  }
  if (clock_->Now() >= deadline_) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed before ", stage));
  }
  return absl::OkStatus();
}

void RequestContext::AddStageTime(absl::string_view stage,
                                  absl::Duration duration) {
  for (StageTime& known : stage_times_) {
    if (known.stage == stage) {
      known.duration += duration;
      return;
    }
  }
  stage_times_.push_back({std::string(stage), duration});
}

}  // namespace quern
