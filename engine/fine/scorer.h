#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/base/request_context.h"
#include "engine/fine/evidence.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/quantized_features.h"

namespace quern {

// What a scorer is asked for.
enum class ScoreTask {
  kRerank,    // How well the whole candidate fits.
  kRegions,   // The regions of a picture that fit.
  kSegments,  // The segments of a video that fit.
};

// What a scorer wants to be sent.
struct ScoreNeeds {
  bool embedding = false;  // Of the query and of the candidates.
  bool grid = false;
  bool frames = false;
  bool tokens = false;
  bool media = false;
  bool text = false;
};

// What a scorer says of itself.
struct ScorerInfo {
  std::string name;
  std::string version;
  std::vector<ScoreTask> tasks;
  ScoreNeeds needs;
  // Of the models whose features it understands; empty: any.
  std::vector<std::string> model_fingerprints;
  int64_t max_candidates = 0;  // Of one request; 0: kMaxScoreCandidates.
};

inline constexpr int64_t kMaxScoreCandidates = 10'000;
inline constexpr int64_t kMaxScoreEvidence = 100;

// The query as the towers see it. Whatever a scorer does not need may be empty.
struct ScoreQuery {
  std::string text;              // As the caller wrote it.
  std::vector<float> embedding;  // [dimension], not zero.
  QuantizedFeatures tokens;      // [tokens, dimension]
  std::string image;             // Bytes of a picture's file.
};

// One item of the short list, likewise.
struct ScoreCandidate {
  std::string id;
  std::vector<float> embedding;            // [dimension]
  std::optional<PartFeatures> parts = {};  // Of a picture or a video.
  std::string media = {};                  // Bytes of its file.
  int32_t modality = 0;                    // quern.v1.Modality
};

struct ScoreRequest {
  ScoreTask task = ScoreTask::kRerank;
  ScoreQuery query;
  std::vector<ScoreCandidate> candidates;  // At most kMaxScoreCandidates.
  // The model that made the features; empty: not said.
  std::string model_name;
  std::string model_version;
  std::string model_fingerprint;
  int64_t max_evidence = 1;  // Of a candidate, 1 to kMaxScoreEvidence.
  double nms_iou = 0.5;      // Of its regions or segments, in (0, 1].
};

struct CandidateScore {
  // Not OK: the candidate lacks what it takes, and has no score.
  absl::Status status;
  float score = 0;  // Finite. Higher is better; comparable within one call.
  std::optional<float> probability = {};  // That it is there, in [0, 1].
  std::vector<Evidence> evidence = {};    // Best first.
};

// The fine stage's unit of work: a query against a short list. It may live in
// this process, on another machine, or be somebody's own model; nothing in the
// interface assumes which. Calls take as long as their work takes, on the
// caller's thread: see query/fine_stage.h for who waits. Thread-safe.
class Scorer {
 public:
  virtual ~Scorer() = default;

  // Errors: those of reaching it.
  virtual absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& context) const = 0;

  // One score per candidate, in order; a candidate's does not depend on the
  // others'. Errors:
  //   kInvalidArgument    the query lacks what this scorer needs, or does not
  //                       fit the candidates
  //   kUnimplemented      a task it does not have
  //   kUnavailable        it is down: results stay coarse
  //   kDataLoss           it answered nonsense
  //   and what context.Check() gives
  virtual absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context, const ScoreRequest& request) const = 0;
};

}  // namespace quern
