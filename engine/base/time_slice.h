#pragma once

namespace quern {

// How long a thread that has work runs before another has its turn. On Linux
// from 6.12, one that wakes up takes a processor at once from one whose slice
// is longer, and waits up to milliseconds for one whose slice is as long as its
// own; over time each gets the same share, whatever its slice. On an older
// kernel slices have no effect.
enum class TimeSlice {
  kShort,  // 0.1 ms, for what someone waits for.
  kLong,   // 20 ms, for what goes on and on.
};

// Of this thread, and of those that it starts from now on.
void SetTimeSlice(TimeSlice slice);

}  // namespace quern
