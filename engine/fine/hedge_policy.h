#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/time/time.h"

namespace quern {

struct HedgePolicyOptions {
  size_t window = 128;        // Latencies that are remembered; >= 1.
  size_t min_latencies = 16;  // Known before they are relied on.
  double quantile = 0.95;
  // Bounds of the delay. Without enough latencies it is the longer one.
  absl::Duration shortest = absl::Milliseconds(2);
  absl::Duration longest = absl::Seconds(1);
  // Second calls for each first one, on average, and at once.
  double rate = 0.1;
  double burst = 10;
};

// When a call that has not been answered is made a second time elsewhere (Dean
// and Barroso, "The tail at scale", 2013: "hedged requests"): when it takes
// longer than nearly all did. Second calls are budgeted, so that scorers which
// are all slow do not get twice the work. Not thread-safe.
class HedgePolicy {
 public:
  explicit HedgePolicy(HedgePolicyOptions options = {})
      : options_(options), budget_(options.burst) {}

  // A first call is made.
  void CountCall() {
    budget_ = std::min(options_.burst, budget_ + options_.rate);
  }
  // Whether a second one may be.
  bool TakeHedge() {
    if (budget_ < 1) return false;
    budget_ -= 1;
    return true;
  }

  // Of a call that was answered.
  void AddLatency(absl::Duration latency) {
    if (latencies_.size() < options_.window) {
      latencies_.push_back(latency);
      return;
    }
    latencies_[next_] = latency;
    next_ = (next_ + 1) % options_.window;
  }

  bool is_learned() const {
    return latencies_.size() >= options_.min_latencies;
  }
  absl::Duration Delay() const {
    if (!is_learned()) return options_.longest;
    std::vector<absl::Duration> sorted = latencies_;
    const auto at = static_cast<size_t>(options_.quantile *
                                        static_cast<double>(sorted.size() - 1));
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(at),
                     sorted.end());
    return std::clamp(sorted[at], options_.shortest, options_.longest);
  }

 private:
  const HedgePolicyOptions options_;
  double budget_;
  std::vector<absl::Duration> latencies_;  // A ring, once it is full.
  size_t next_ = 0;
};

}  // namespace quern
