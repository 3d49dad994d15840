#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "absl/synchronization/notification.h"

namespace quern {

// Waits for the one call back of what `start` starts: the test's way to use an
// asynchronous method as if it were not.
//
//   Await<absl::StatusOr<SearchResult>>(
//       [&](auto done) { engine.Search(context, query, done); });
template <typename Result, typename Start>
Result Await(Start start) {
  absl::Notification called;
  std::optional<Result> result;
  start([&](Result value) {
    result.emplace(std::move(value));
    called.Notify();
  });
  called.WaitForNotification();
  return *std::move(result);
}

}  // namespace quern
