#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early returns for absl::Status and absl::StatusOr, with the shapes that
// later Abseil releases give them.

#define QUERN_STATUS_CONCAT_INNER(a, b) a##b
#define QUERN_STATUS_CONCAT(a, b) QUERN_STATUS_CONCAT_INNER(a, b)

// Returns the status of `expression` from the enclosing function unless OK.
#define QUERN_RETURN_IF_ERROR(expression)                               \
  do {                                                                  \
    if (absl::Status quern_status = (expression); !quern_status.ok()) { \
      return quern_status;                                              \
    }                                                                   \
  } while (false)

// Assigns the value of a StatusOr to `lhs` (a declaration or an lvalue), or
// returns its status from the enclosing function.
#define QUERN_ASSIGN_OR_RETURN(lhs, expression)                              \
  QUERN_ASSIGN_OR_RETURN_IMPL(QUERN_STATUS_CONCAT(quern_or_, __LINE__), lhs, \
                              expression)

// Names and declarations cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define QUERN_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expression) \
  auto statusor = (expression);                                \
  if (!statusor.ok()) {                                        \
    return std::move(statusor).status();                       \
  }                                                            \
  lhs = std::move(statusor).value()
// NOLINTEND(bugprone-macro-parentheses)
