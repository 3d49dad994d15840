#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/index/candidates.h"
#include "engine/index/segment.h"

namespace quern {

struct SegmentOptions {
  int64_t dimension = 0;
  Metric metric = Metric::kCosine;
  VectorStorage storage = VectorStorage::kFp32;
  // kAuto: exact below `min_ann_rows`, else a graph.
  IndexKind kind = IndexKind::kAuto;
  float target_recall = 0.95F;
  int64_t min_ann_rows = 20'000;  // Fewer rows are always compared one by one.
  int threads = 1;                // That build a graph.
  uint64_t generation = 0;
  uint64_t file_id = 0;
};

// Real queries of one source that are fewer say nothing.
inline constexpr size_t kMinRealQueries = 20;

// Makes one segment of the live rows of `parts`, in the order of their row
// numbers.
//
// A graph or lists are calibrated: `stored_queries` rows that it has not seen
// yet, and `real_queries`, a matrix for each source that has any (normalised
// for kCosine; no two equal to the bit), are searched exactly and at each
// operating point. What counts is the source that is served worst. One half of
// each picks the points, the other half is what the recall is measured on:
// a point that is below the target there gives way to the next dearer one.
// Where no point reaches the target on all the segment is made kExact.
//
// Errors: kInvalidArgument when no row lives; kResourceExhausted; those of
// `reader` and of `check`, which runs now and then on any thread.
absl::StatusOr<std::shared_ptr<const Segment>> BuildSegment(
    const SegmentOptions& options, absl::Span<const IndexPart> parts,
    absl::Span<const Matrix> real_queries, const VectorReader& reader,
    const std::function<absl::Status()>& check);

}  // namespace quern
