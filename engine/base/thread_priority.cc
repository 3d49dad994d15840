#include "engine/base/thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace quern {

void SetNiceness(int niceness) {
  // On Linux it is per thread.
  if (niceness != 0) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), niceness);
  }
}

void LeaveFirstCore() {
  cpu_set_t cores;
  // Machines with more than 1,024 cores, where this fails, have enough of them.
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0 ||
      CPU_COUNT(&cores) < 2) {
    return;
  }
  int first = 0;
  while (!CPU_ISSET(first, &cores)) ++first;
  CPU_CLR(first, &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

}  // namespace quern
