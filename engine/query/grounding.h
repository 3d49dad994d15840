#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"
#include "engine/embed/embedder.h"
#include "engine/fine/evidence.h"
#include "engine/fine/presence.h"
#include "engine/query/engine.h"

// Grounding one picture or one video: the texts and the media are embedded side
// by side, then the fine stage's algorithms run on the thread that has both.
// Stages: decode, encode, ground.

namespace quern {

PresenceCalibration CalibrationOf(const CalibrationSpec& spec);

// That of `model` for one kind of part; null where it has none. Errors:
// kFailedPrecondition where it has none and `min_probability` is above 0.
absl::StatusOr<std::optional<PresenceCalibration>> CheckedCalibration(
    const Model& model, const std::optional<CalibrationSpec>& spec,
    const std::optional<double>& min_probability);

struct ItemTarget {
  std::string collection;
  std::string id;
};

// A text to be found, and where it stands in the sentence it was taken from.
struct GroundText {
  std::string text;
  size_t begin = 0;  // Bytes.
  size_t end = 0;
};

struct RegionQuery {
  std::string model;  // Empty: the stored item's, else the default.
  std::variant<ImageInput, ItemTarget> target;
  std::vector<GroundText> phrases;  // At least one.
  int64_t max_regions = 5;          // Of each phrase, >= 1.
  std::optional<double> min_probability;
  double nms_iou = 0.5;
  bool ignore_relations = false;
  // Of each phrase, and of what it is placed by: proposals whose crops are
  // encoded again, >= 0. Then the media is read, whatever is stored.
  int64_t crop_depth = 0;
};

struct RegionHit {
  Box box;
  double score = 0;
  std::optional<double> probability;
};

struct PhraseRegions {
  std::vector<RegionHit> regions;  // Best first; may be empty.
  std::optional<double> presence;  // Where the model is calibrated.
};

struct RegionResult {
  std::vector<PhraseRegions> phrases;  // One per phrase.
  int64_t width = 0;                   // Pixels of the upright original.
  int64_t height = 0;
  std::shared_ptr<const Model> model;
  std::vector<std::string> degraded_reasons;
};

struct SegmentQuery {
  std::string model;
  std::variant<VideoInput, ItemTarget> target;
  std::vector<GroundText> sentences;  // At least one.
  int64_t max_segments = 5;
  std::optional<double> min_probability;
  absl::Duration min_duration = absl::Seconds(1);
  double nms_iou = 0.5;
  VideoSampling sampling;
};

struct SegmentHit {
  TimeSpan span;
  double score = 0;
  std::optional<double> probability;
};

struct SentenceSegments {
  std::vector<SegmentHit> segments;
  std::optional<double> presence;
  std::vector<float> saliency;  // One value per frame.
};

struct SegmentResult {
  std::vector<SentenceSegments> sentences;
  std::vector<absl::Duration> times;  // Of the frames.
  absl::Duration duration;            // Of the video.
  std::shared_ptr<const Model> model;
  std::vector<std::string> degraded_reasons;
};

// Both call `done` once, maybe before they return; `engine`, `context` (whose
// stage times are written) and `query` must live until then. Errors:
//   kInvalidArgument     a text or the media, with field paths as in
//                        quern.v1.GroundRegionsRequest and
//                        GroundSegmentsRequest
//   kNotFound            no such model, collection or item
//   kFailedPrecondition  the model lacks a capability, or a calibration where
//                        `min_probability` is given; a stored item is of
//                        another kind, or has nothing that can be looked at
//   and those of Embedder::Embed()
void GroundRegions(const Engine& engine, RequestContext& context,
                   const RegionQuery& query,
                   std::function<void(absl::StatusOr<RegionResult>)> done);
void GroundSegments(const Engine& engine, RequestContext& context,
                    const SegmentQuery& query,
                    std::function<void(absl::StatusOr<SegmentResult>)> done);

}  // namespace quern
