#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

// Finding the video and the moment in it, as the TVR evaluation of VCMR does
// (Lei et al., "TVR: A Large-Scale Dataset for Video-Subtitle Moment
// Retrieval", ECCV 2020, and its published script).

namespace quern::cli {

// A moment of a video, in single precision as in the official script.
struct CorpusMoment {
  int64_t video = 0;  // The predictions' number for it.
  float start = 0;    // In seconds.
  float end = 0;
};

struct CorpusMomentCase {
  CorpusMoment truth;
  std::vector<CorpusMoment> predicted;  // Best first; 100 count.
};

// Percent of queries, with two decimals, with a right moment among the first
// `k` whose IoU is `iou` or more. `cases` is not empty.
double CorpusRecall(absl::Span<const CorpusMomentCase> cases, float iou,
                    size_t k);

// Reads the official files: annotations {"desc_id", "vid_name", "ts": [start,
// end]} a line, and predictions {"video2idx": {name: number}, "VCMR":
// [{"desc_id", "predictions": [[number, start, end, score], ...]}]}.
// INVALID_ARGUMENT names what cannot be used, and queries without a prediction
// and the reverse, unless `allow_missing` leaves them out.
absl::StatusOr<std::vector<CorpusMomentCase>> ReadCorpusMoments(
    const std::filesystem::path& truth,
    const std::filesystem::path& predictions, bool allow_missing);

}  // namespace quern::cli
