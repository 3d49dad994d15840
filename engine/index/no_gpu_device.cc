#include "absl/status/status.h"

#include "engine/index/gpu_device.h"

// What a build without CUDA has of gpu_device.h.

namespace quern {

bool HasGpuDevices() { return false; }

absl::StatusOr<std::unique_ptr<Device>> OpenGpuDevice(
    const std::string& /*name*/) {
  return absl::FailedPreconditionError(
      "this build has no CUDA: use one of the preset cuda, or leave "
      "index.devices empty");
}

}  // namespace quern
