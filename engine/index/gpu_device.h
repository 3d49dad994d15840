#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "engine/index/device.h"

namespace quern {

// Whether OpenGpuDevice() can open one: the build has CUDA.
bool HasGpuDevices();

// A GPU, "cuda:0" to "cuda:N", searched by FAISS's GPU indexes: GpuIndexFlat,
// GpuIndexIVFFlat and, for lists of halves, GpuIndexIVFScalarQuantizer.
// Errors: kFailedPrecondition: this build has no CUDA, or there is no such GPU.
absl::StatusOr<std::unique_ptr<Device>> OpenGpuDevice(const std::string& name);

}  // namespace quern
