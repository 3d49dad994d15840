#pragma once

#include "absl/synchronization/notification.h"

namespace quern {

// What a test opens for somebody who waits there.
struct Gate {
  absl::Notification reached;
  absl::Notification open;
};

}  // namespace quern
