#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include <sys/syscall.h>
#include <unistd.h>

namespace quern {

// This thread's time slice; zero where the kernel does not tell.
inline absl::Duration TimeSliceOfThread() {
  std::array<uint64_t, 6> attributes = {};  // Of struct sched_attr.
  syscall(SYS_sched_getattr, 0, attributes.data(), sizeof(attributes), 0);
  constexpr size_t kRuntime = 3;
  return absl::Nanoseconds(attributes[kRuntime]);
}

}  // namespace quern
