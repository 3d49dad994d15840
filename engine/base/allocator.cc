#include "engine/base/allocator.h"

#include <malloc.h>

// Of gperftools/malloc_extension_c.h; null in a program without TCMalloc.
extern "C" void MallocExtension_ReleaseFreeMemory()  // NOLINT
    __attribute__((weak));

namespace quern {

void ReleaseFreeMemory() {
  if (MallocExtension_ReleaseFreeMemory != nullptr) {
    MallocExtension_ReleaseFreeMemory();
  } else {
    malloc_trim(0);
  }
}

}  // namespace quern
