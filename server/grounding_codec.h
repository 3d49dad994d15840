#pragma once

#include "absl/status/statusor.h"

#include "engine/base/request_context.h"
#include "engine/query/grounding.h"
#include "quern/v1/grounding.pb.h"

// Messages of quern.v1.Grounding to and from the engine's structs. Errors carry
// field paths as the caller wrote them.

namespace quern {

// Views point into `request`. Errors: kInvalidArgument for a field out of
// range, kUnimplemented for what this version does not do.
absl::StatusOr<RegionQuery> DecodeGroundRegions(
    const v1::GroundRegionsRequest& request);
void EncodeRegions(const RegionQuery& query, const RegionResult& result,
                   const RequestContext& context,
                   v1::GroundRegionsResponse* response);

absl::StatusOr<SegmentQuery> DecodeGroundSegments(
    const v1::GroundSegmentsRequest& request);
void EncodeSegments(const SegmentQuery& query, const SegmentResult& result,
                    bool with_saliency, const RequestContext& context,
                    v1::GroundSegmentsResponse* response);

// `box` in pixels of a picture of width x height, to the nearest pixel, one or
// more a side, within the picture.
v1::PixelBox ToPixels(const Box& box, int64_t width, int64_t height);

}  // namespace quern
