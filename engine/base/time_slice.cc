#include "engine/base/time_slice.h"

#include <cstdint>

#include <sys/syscall.h>
#include <unistd.h>

namespace quern {
namespace {

// The first version of the kernel's struct of this name, which the C library
// has no declaration of.
struct SchedAttributes {
  uint32_t size = sizeof(SchedAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t niceness = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;  // The slice, where the policy is the usual one.
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};

constexpr uint64_t kShortNs = 100'000;  // The least that Linux takes.
constexpr uint64_t kLongNs = 20'000'000;

}  // namespace

void SetTimeSlice(TimeSlice slice) {
  SchedAttributes attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) {
    return;  // A sandbox may forbid it.
  }
  attributes.runtime_ns = slice == TimeSlice::kShort ? kShortNs : kLongNs;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace quern
