#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/moment_metrics.h"

namespace quern::cli {

// A line of a Charades-STA annotation file: `VIDEO START END##SENTENCE`.
struct CharadesQuery {
  std::string vid;
  std::string sentence;
  Moment moment;
};

// Blank lines are skipped. INVALID_ARGUMENT lists the lines that cannot be
// used; also when there is no line.
absl::StatusOr<std::vector<CharadesQuery>> ReadCharades(
    const std::filesystem::path& path);

// Reads predictions, {"vid", "query", "pred_relevant_windows"} a line, whose
// first window is the answer to every line of that video and sentence.
// INVALID_ARGUMENT lists the lines that cannot be used, and names queries
// without a prediction and predictions without a query, unless `allow_missing`
// leaves them out.
absl::StatusOr<std::vector<SingleMomentCase>> ReadCharadesPredictions(
    const std::filesystem::path& path,
    const std::vector<CharadesQuery>& queries, bool allow_missing);

}  // namespace quern::cli
