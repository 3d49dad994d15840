#pragma once

#include <cstdint>

namespace quern {

// Who waits for a piece of work: a person or a service, or a load of many
// items.
enum class Lane { kInteractive, kBulk };

// While both lanes wait, one turn in this many is bulk's.
inline constexpr int64_t kBulkTurn = 4;

}  // namespace quern
