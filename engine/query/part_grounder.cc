#include "engine/query/part_grounder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/base/error.h"
#include "engine/fine/region_grounder.h"
#include "engine/fine/segment_grounder.h"
#include "engine/query/moment_head.h"

namespace quern {
namespace {

CandidateScore Lacks(absl::string_view feature) {
  CandidateScore score;
  score.status =
      InvalidField(feature, "is missing; what is asked for needs it");
  return score;
}

}  // namespace

PartGrounder::PartGrounder(bool in_videos, std::vector<PlacedThing> phrase,
                           const PartGrounderOptions& options)
    : in_videos_(in_videos), phrase_(std::move(phrase)), options_(options) {}

PartGrounder PartGrounder::Regions(std::vector<PlacedThing> phrase,
                                   const PartGrounderOptions& options) {
  return {/*in_videos=*/false, std::move(phrase), options};
}

PartGrounder PartGrounder::Segments(std::vector<float> sentence,
                                    const PartGrounderOptions& options) {
  return {/*in_videos=*/true, {{.embedding = std::move(sentence)}}, options};
}

PartGrounder PartGrounder::SegmentsByHead(std::shared_ptr<const Model> model,
                                          Matrix tokens,
                                          const PartGrounderOptions& options) {
  PartGrounder grounder(/*in_videos=*/true, {}, options);
  grounder.head_ = std::move(model);
  grounder.tokens_ = std::move(tokens);
  return grounder;
}

CandidateScore PartGrounder::Ground(const PartFeatures& parts) const {
  const bool is_video = parts.shape.frames > 0;
  const int64_t dimension =
      head_ != nullptr ? head_->info().dimension
                       : static_cast<int64_t>(phrase_.front().embedding.size());
  if (is_video != in_videos_ || parts.features.columns != dimension) {
    return Lacks(in_videos_ ? "frames" : "grid");
  }
  return in_videos_ ? FindSegments(parts) : FindRegions(parts);
}

template <typename Found, typename Place>
CandidateScore PartGrounder::AsEvidence(const std::vector<Found>& found,
                                        Place place) const {
  CandidateScore score;
  score.score = static_cast<float>(found.front().score);
  for (const Found& one : found) {
    Evidence evidence = place(one);
    evidence.score = static_cast<float>(one.score);
    if (const std::optional<double> probability =
            ProbabilityOf(one, options_.calibration)) {
      evidence.probability = static_cast<float>(*probability);
      score.probability =
          std::max(score.probability.value_or(0), *evidence.probability);
    }
    score.evidence.push_back(evidence);
  }
  return score;
}

CandidateScore PartGrounder::FindRegions(const PartFeatures& parts) const {
  const Matrix cells = Dequantize(parts.features);
  const RegionGrounder grounder({.cells = cells.view(),
                                 .height = parts.shape.grid_height,
                                 .width = parts.shape.grid_width});
  std::vector<PhraseQuery> things(phrase_.size());
  for (size_t i = 0; i < phrase_.size(); ++i) {
    things[i] = {.embedding = phrase_[i].embedding,
                 .relation = phrase_[i].relation,
                 .object = i + 1 < phrase_.size() ? &things[i + 1] : nullptr};
  }
  return AsEvidence(
      grounder.Ground(things.front(), options_.max_parts, options_.nms_iou),
      [](const GroundedRegion& region) { return Evidence{.box = region.box}; });
}

CandidateScore PartGrounder::FindSegments(const PartFeatures& parts) const {
  const Matrix frames = Dequantize(parts.features);
  std::vector<double> times;
  times.reserve(parts.times.size());
  for (const absl::Duration time : parts.times) {
    times.push_back(absl::ToDoubleSeconds(time));
  }
  const FramesView video = {
      .frames = frames.view(),
      .times = times,
      .duration = absl::ToDoubleSeconds(parts.shape.duration)};
  const SegmentOptions options = {.max_segments = options_.max_parts,
                                  .nms_iou = options_.nms_iou};
  GroundedMoments moments;
  if (head_ != nullptr) {
    absl::StatusOr<std::vector<GroundedMoments>> found =
        GroundByHead(*head_, {tokens_.view()}, video, options);
    if (!found.ok()) return {.status = found.status()};
    moments = std::move(found->front());
  } else {
    moments = SegmentGrounder(video).Ground(phrase_.front().embedding, options);
  }
  return AsEvidence(moments.segments, [](const GroundedSegment& segment) {
    return Evidence{.span = segment.span};
  });
}

}  // namespace quern
