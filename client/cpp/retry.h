#pragma once

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quern::client {

struct RetryOptions {
  int max_attempts = 4;  // The first one included; 1 never tries again.
  // Wait before the second attempt; doubles from attempt to attempt. > 0.
  absl::Duration initial_backoff = absl::Milliseconds(100);
  // Longest wait of our own choosing; >= `initial_backoff`. What a server asks
  // for may be longer.
  absl::Duration max_backoff = absl::Seconds(5);
};

// How long to wait before the next attempt, or nothing when there should be
// none. `attempts` counts those made so far (>= 1); `jitter` in [0, 1] takes up
// to a quarter off, so that clients do not come back all at once.
//
// Worth another attempt: UNAVAILABLE, and RESOURCE_EXHAUSTED with a RetryInfo
// (without one it is a limit of the request, which waiting does not change).
std::optional<absl::Duration> NextDelay(const RetryOptions& options,
                                        int attempts,
                                        const absl::Status& status,
                                        double jitter);

}  // namespace quern::client
