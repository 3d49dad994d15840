#pragma once

namespace quern {

// Gives memory that was freed back to the system, of TCMalloc where the program
// is linked with it, else of glibc. For after a large transient, such as
// loading a model: it takes milliseconds.
void ReleaseFreeMemory();

}  // namespace quern
