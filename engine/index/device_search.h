#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/index/candidates.h"
#include "engine/index/device_pool.h"
#include "engine/index/vector_codes.h"

namespace quern {

struct DeviceSearchOptions {
  int64_t k = 10;
  int64_t lists = 0;  // To look into; 0: there are none.
  double share = 1;   // Of the rows that may be returned, in (0, 1].
};

// Whether to ask a device: it returns at most kMaxDeviceResults rows, those
// that are dead or do not match among them, and these are to be few of all.
bool DeviceCanSearch(const DeviceSegment& segment,
                     const DeviceSearchOptions& options);

// Adds to each query's candidates what is best among the rows of a segment that
// is on a device, compared again by the processor. The device is asked for some
// rows more than k; when one that it left out may still be among the best, as
// far as its error and that of the segment's codes allow, for more. Returns the
// queries, by number, for which as many rows as it can give were not enough:
// nothing of this part is among their candidates then.
// Errors: kResourceExhausted or kUnavailable: the device did not do it, and
// nothing of this part is among any candidates; what context.Check() gives.
absl::StatusOr<std::vector<size_t>> SearchDevice(
    const RequestContext& context, const SearchedPart& searched,
    absl::Span<const EncodedQuery> queries, const DeviceSearchOptions& options,
    absl::Span<Candidates> candidates);

}  // namespace quern
