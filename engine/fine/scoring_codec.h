#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/fine/scorer.h"
#include "quern/v1/scoring.pb.h"

// Messages of quern.v1.Scoring to and from the structs of scorer.h, for both
// ends of the wire. What comes from the other end is believed in nothing.

namespace quern {

// What of the request the other end needs to be sent; `needs.media` sends the
// query's picture too.
v1::ScoreRequest EncodeScoreRequest(const ScoreRequest& request,
                                    const ScoreNeeds& needs);

// The inverse, for whoever serves. The media of candidates, and the query's
// picture, are not read. A frame of a video counts for as long as it is shown,
// in multiples of the shortest time between two. Errors: kInvalidArgument with
// field paths as in quern.v1.ScoreRequest; a candidate that merely lacks
// something is none.
absl::StatusOr<ScoreRequest> DecodeScoreRequest(
    const v1::ScoreRequest& message);

void EncodeScores(const ScoreRequest& request,
                  const std::vector<CandidateScore>& scores,
                  const ScorerInfo& scorer, v1::ScoreResponse* message);

// The inverse, for whoever asked `request`. Errors: kDataLoss naming the first
// field that a scorer must not answer so: another number of scores, other ids,
// numbers that are not finite or out of range, boxes and spans outside of the
// picture or the video, more evidence than was asked for.
absl::StatusOr<std::vector<CandidateScore>> DecodeScores(
    const ScoreRequest& request, const v1::ScoreResponse& message);

void EncodeScorerInfo(const ScorerInfo& info, v1::ScorerDescription* message);
// Errors: kDataLoss for a description that is none; what a later version may
// say (an unknown task) is left out, an unknown feature is an error.
absl::StatusOr<ScorerInfo> DecodeScorerInfo(
    const v1::ScorerDescription& message);

}  // namespace quern
