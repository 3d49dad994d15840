#include "client/cpp/retry.h"

#include <algorithm>
#include <cmath>

#include "client/cpp/rpc_status.h"

namespace quern::client {

std::optional<absl::Duration> NextDelay(const RetryOptions& options,
                                        int attempts,
                                        const absl::Status& status,
                                        double jitter) {
  const std::optional<absl::Duration> asked = RetryDelay(status);
  const bool worth_it =
      absl::IsUnavailable(status) ||
      (absl::IsResourceExhausted(status) && asked.has_value());
  if (!worth_it || attempts >= options.max_attempts) return std::nullopt;
  const absl::Duration backoff =
      std::min(options.initial_backoff * std::exp2(attempts - 1),
               options.max_backoff) *
      (1 - jitter / 4);
  return std::max(backoff, asked.value_or(absl::ZeroDuration()));
}

}  // namespace quern::client
