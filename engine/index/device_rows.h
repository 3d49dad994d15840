#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "engine/index/device.h"
#include "engine/index/segment.h"

namespace quern {

// What a segment would be on a device.
DeviceShape ShapeOf(const Segment& segment, VectorStorage storage);

// A segment's rows, ready to be copied to a device; their numbers are the
// segment's. A segment with inverted lists keeps its own, with whole vectors in
// place of product codes: what a search of as many lists finds there is at
// least as good, so that the segment's calibration holds.
struct DeviceRows {
  DeviceShape shape;
  std::shared_ptr<const faiss::Index> index;  // As Device::Load() takes it.
  float norm = 1;         // The largest of a row, that all are divided by.
  CodeScale worst_scale;  // Of the segment's codes, each part by itself.
};

// Errors: kResourceExhausted.
absl::StatusOr<DeviceRows> StageRows(const Segment& segment,
                                     VectorStorage storage);

}  // namespace quern
