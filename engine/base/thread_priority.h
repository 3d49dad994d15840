#pragma once

namespace quern {

// Of bulk work that calls wait for, and of work that nobody waits for.
inline constexpr int kBulkNiceness = 5;
inline constexpr int kBackgroundNiceness = 10;

// Of the calling thread and those that it starts, 0 to 19; 0 is that of the
// process.
void SetNiceness(int niceness);

// Keeps the calling thread, and those that it starts, off the first of the
// cores that the process may use, if there are others: even a thread of a lower
// priority runs to the end of its slice, milliseconds, before a call gets its
// core.
void LeaveFirstCore();

}  // namespace quern
