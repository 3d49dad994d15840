#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/region_metrics.h"

// Test sets and predictions of image grounding.

namespace quern::cli {

// A sentence of a RefCOCO-style annotation file, a JSON list of
//   {"file_name": "a.jpg", "bbox": [left, top, width, height],
//    "sentences": [{"sent_id": 1, "sent": "the dog on the left"}]}
// Without a "bbox", or with null, the sentence speaks of nothing in the
// picture.
struct GroundingQuery {
  std::string sent_id;  // As JSON.
  std::string sentence;
  std::string file_name;
  std::optional<RegionBox> box;
};

// The best answer to a sentence.
struct GroundingAnswer {
  std::string sent_id;              // As JSON.
  std::optional<RegionBox> box;     // None: nothing was found.
  std::optional<ImagePoint> point;  // Where to look.
  std::optional<double> presence;   // Higher: rather in the picture.
};

// INVALID_ARGUMENT names the first reference that cannot be used, or a sentence
// said twice; also when there is none.
absl::StatusOr<std::vector<GroundingQuery>> ReadGroundingQueries(
    const std::filesystem::path& path);

// Reads a JSON list of {"sent_id", "bbox" or null, "score"?, "point": [x, y]?,
// "presence"?}. Of several boxes for a sentence the best score stays, of equal
// ones the first. The point is the box's centre and presence its score, when
// they are not said. INVALID_ARGUMENT names the first that cannot be used.
absl::StatusOr<std::vector<GroundingAnswer>> ReadGroundingAnswers(
    const std::filesystem::path& path);

// What the metrics read.
struct GroundingTestSet {
  std::vector<RegionCase> regions;  // Sentences with a box.
  // All sentences. Empty when all have a box, or an answer lacks presence.
  std::vector<PresenceCase> presence;
};

// INVALID_ARGUMENT names queries without an answer and answers without a query,
// unless `allow_missing` leaves them out.
absl::StatusOr<GroundingTestSet> MatchGrounding(
    const std::vector<GroundingQuery>& queries,
    const std::vector<GroundingAnswer>& answers, bool allow_missing);

}  // namespace quern::cli
