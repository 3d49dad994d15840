#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"

namespace quern {

// A box in the upright picture, each value a share of its side in [0, 1].
struct Box {
  float left = 0;
  float top = 0;
  float right = 0;
  float bottom = 0;
};

// A stretch of a video, in seconds from its start; start <= end.
struct TimeSpan {
  double start = 0;
  double end = 0;
};

// What in a candidate earned its score: one of the two, or neither.
struct Evidence {
  std::optional<Box> box;
  std::optional<TimeSpan> span;
  float score = 0;
};

// The query as the towers see it. Whatever a scorer does not use may be empty.
struct ScoreQuery {
  std::string text;              // As the caller wrote it.
  std::vector<float> embedding;  // [dimension], L2-normalised.
};

// One item of the short list with the features that the store has of it.
struct ScoreCandidate {
  std::string id;
  std::vector<float> embedding;  // [dimension]
};

struct CandidateScore {
  float score = 0;  // Higher is better; comparable within one call.
  std::vector<Evidence> evidence;
};

// The fine stage's unit of work: a query against a short list. It may live in
// this process, on another machine, or be somebody's own model; nothing in the
// interface assumes which. Thread-safe.
class Scorer {
 public:
  virtual ~Scorer() = default;

  // One score per candidate, in order. All finite.
  // Errors:
  //   kInvalidArgument   a candidate lacks what this scorer needs
  //   kUnavailable       the stage is down: results stay coarse
  //   and what context.Check() gives
  virtual absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context, const ScoreQuery& query,
      absl::Span<const ScoreCandidate> candidates) const = 0;
};

}  // namespace quern
