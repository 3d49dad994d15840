#pragma once

#include <exception>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The one place where exceptions of third-party libraries (LibTorch, FAISS,
// yaml-cpp) end. Adapters wrap each call into a library in Guard(); nothing
// above an adapter needs try.

namespace quern {

// The exception being handled, as a status: std::bad_alloc becomes
// RESOURCE_EXHAUSTED, everything else INTERNAL; the message is
// "<library>: <what>" cut to its first lines. Call it in a catch block only.
absl::Status CurrentExceptionStatus(absl::string_view library);

// Runs `call` and returns what it returns (absl::Status, absl::StatusOr<T>, or
// a plain T, which comes back as absl::StatusOr<T>; void as absl::Status).
template <typename Call>
auto Guard(absl::string_view library, Call&& call) {
  using Result = std::invoke_result_t<Call>;
  if constexpr (std::is_void_v<Result>) {
    try {
      std::forward<Call>(call)();
      return absl::OkStatus();
    } catch (...) {
      return CurrentExceptionStatus(library);
    }
  } else if constexpr (std::is_constructible_v<Result, absl::Status>) {
    try {
      return std::forward<Call>(call)();
    } catch (...) {
      return Result(CurrentExceptionStatus(library));
    }
  } else {
    try {
      return absl::StatusOr<Result>(std::forward<Call>(call)());
    } catch (...) {
      return absl::StatusOr<Result>(CurrentExceptionStatus(library));
    }
  }
}

}  // namespace quern
