#pragma once

#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Matchers for absl::Status and absl::StatusOr, with the names and shapes that
// later Abseil releases give them.

namespace quern {

inline const absl::Status& GetStatus(const absl::Status& status) {
  return status;
}

template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, negation ? "is an error" : "is OK") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

MATCHER_P(StatusIs, code, "") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code;
}

// `message` is any matcher of strings.
MATCHER_P2(StatusIs, code, message, "") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).code() == code &&
         testing::ExplainMatchResult(
             message, absl::StrCat(GetStatus(arg).message()), result_listener);
}

// `value` is any matcher of what the result holds.
MATCHER_P(IsOkAndHolds, value, "") {
  *result_listener << GetStatus(arg).ToString();
  return arg.ok() && testing::ExplainMatchResult(value, *arg, result_listener);
}

// The value of a result that must be OK: an error ends the test binary.
template <typename T>
T ValueOrDie(absl::StatusOr<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.status();
    std::abort();
  }
  return std::move(result).value();
}

}  // namespace quern
