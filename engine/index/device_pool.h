#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/index/device.h"
#include "engine/index/device_thread.h"
#include "engine/index/segment.h"

namespace quern {

struct DevicePoolOptions {
  // That may be taken of one device; 0: four fifths of what is free at the
  // start.
  int64_t memory_bytes = 0;
  VectorStorage storage = VectorStorage::kFp16;  // Or kFp32.
  // Segments of fewer rows stay with the processor, which is as fast.
  int64_t min_rows = 10'000;
  DeviceThread::Report report;  // Told when a device is lost; null: nobody.
};

// A segment on a device, whose memory is free again when the last owner has
// gone. Thread-safe.
class DeviceSegment {
 public:
  DeviceSegment(std::shared_ptr<DeviceThread> thread,
                std::shared_ptr<DeviceIndex> index, const DeviceRows& rows);
  ~DeviceSegment();
  DeviceSegment(const DeviceSegment&) = delete;
  DeviceSegment& operator=(const DeviceSegment&) = delete;

  const std::string& device() const { return thread_->name(); }  // "cuda:0".
  const DeviceShape& shape() const { return shape_; }
  // kUnavailable: its device is lost.
  absl::Status status() const { return thread_->status(); }

  // As DeviceIndex::Search(), with queries of any norm and the scores of the
  // segment's rows. Errors: kResourceExhausted or kUnavailable: the device did
  // not do it; and what context.Check() gives.
  absl::StatusOr<DeviceHits> Search(const RequestContext& context,
                                    MatrixView queries, int64_t k,
                                    int64_t lists) const;
  // By how much a score may be off, for a query of norm 1.
  float score_error() const { return score_error_; }
  // The worst of what the segment's codes have lost.
  const CodeScale& worst_scale() const { return worst_scale_; }

 private:
  const std::shared_ptr<DeviceThread> thread_;
  std::shared_ptr<DeviceIndex> index_;
  const DeviceShape shape_;
  const float norm_;  // What the device's rows were divided by.
  const float score_error_;
  const CodeScale worst_scale_;
};

// The devices of a server. Thread-safe.
class DevicePool {
 public:
  using OpenDevice = std::function<absl::StatusOr<std::unique_ptr<Device>>(
      const std::string& name)>;

  // Opens the devices of these names, each on a thread of its own; one that
  // does not open is lost.
  DevicePool(absl::Span<const std::string> names, const OpenDevice& open,
             const DevicePoolOptions& options);

  // Whether a segment is for a device, if one has room.
  bool IsFor(const Segment& segment) const;
  // Copies a segment to the device that has the most room, and waits for it.
  // Errors: kResourceExhausted: no device has room; kUnavailable: all are lost.
  absl::StatusOr<std::shared_ptr<const DeviceSegment>> Place(
      const Segment& segment) const;

  // Of the first device that is lost; OK: none is.
  absl::Status status() const;

 private:
  std::vector<std::shared_ptr<DeviceThread>> threads_;
  const DevicePoolOptions options_;
};

}  // namespace quern
