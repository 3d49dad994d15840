#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/moment_metrics.h"

// Test sets and predictions of temporal grounding, in their authors' formats.

namespace quern::cli {

// A line of a QVHighlights annotation file.
struct MomentTruth {
  std::string qid;    // As JSON.
  std::string vid;    // Empty when not said.
  std::string query;  // Likewise.
  int line = 0;
  std::vector<Moment> windows;  // Empty when not said.
  // One row per clip of kClipSeconds, zeros where nothing is relevant. Nothing
  // when the line does not say "relevant_clip_ids".
  std::optional<std::vector<ClipScores>> saliency;
};

// A line of a QVHighlights prediction file.
struct MomentPrediction {
  std::string qid;  // As JSON.
  int line = 0;
  std::optional<std::vector<ScoredMoment>> windows;
  std::optional<std::vector<double>> saliency;  // One or more.
};

// Read JSON lines; fields that are not named in the structures are ignored.
// INVALID_ARGUMENT lists the lines that cannot be used and queries said twice.
absl::StatusOr<std::vector<MomentTruth>> ReadMomentTruth(
    const std::filesystem::path& path);
absl::StatusOr<std::vector<MomentPrediction>> ReadMomentPredictions(
    const std::filesystem::path& path);

// What the metrics read: queries in order of the predictions. Windows, or
// highlights, are empty when the first prediction has none, as in the official
// script.
struct MomentTestSet {
  std::vector<MomentCase> moments;
  std::vector<HighlightCase> highlights;
  int without_window = 0;  // Queries with no predicted window.
};

// INVALID_ARGUMENT names queries without a prediction and predictions without a
// query, unless `allow_missing` leaves them out; what the first prediction has
// and a later one lacks; and what is predicted but not annotated.
absl::StatusOr<MomentTestSet> MatchMoments(
    const std::vector<MomentTruth>& truth,
    const std::vector<MomentPrediction>& predictions, bool allow_missing);

}  // namespace quern::cli
