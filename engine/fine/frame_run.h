#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quern {

// Frames begin..end-1 of a video; not empty.
struct FrameRun {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const FrameRun& a, const FrameRun& b) {
    return a.begin == b.begin && a.end == b.end;
  }
};

// Sums and means of scores over runs of frames in two reads.
class PrefixSums {
 public:
  explicit PrefixSums(absl::Span<const float> scores)
      : sums_(scores.size() + 1) {
    for (size_t i = 0; i < scores.size(); ++i) {
      sums_[i + 1] = sums_[i] + double{scores[i]};
    }
  }

  int64_t frames() const { return static_cast<int64_t>(sums_.size()) - 1; }
  double Sum(const FrameRun& run) const {
    return sums_[run.end] - sums_[run.begin];
  }
  double Mean(const FrameRun& run) const {
    return Sum(run) / static_cast<double>(run.size());
  }
  // Mean within the run less the mean of all other frames; the mean alone when
  // there is no other.
  double Contrast(const FrameRun& run) const {
    const int64_t outside = frames() - run.size();
    if (outside == 0) return Mean(run);
    return Mean(run) - (sums_.back() - Sum(run)) / static_cast<double>(outside);
  }

 private:
  std::vector<double> sums_;
};

}  // namespace quern
