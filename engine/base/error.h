#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// Errors with the structured details that a caller acts on. The engine attaches
// them to an absl::Status as payloads; server/grpc_status turns them into
// google.rpc details (BadRequest, ResourceInfo, RetryInfo).

namespace quern {

// INVALID_ARGUMENT about one field of the request. `field` is the path as the
// caller wrote it ("query.parts[2].text"). The message should name the value
// and the limit; it is prefixed with the field.
absl::Status InvalidField(absl::string_view field, absl::string_view message);

// NOT_FOUND: there is no `type` ("collection", "item", "model") called `name`.
absl::Status NotFound(absl::string_view type, absl::string_view name);

// ALREADY_EXISTS, likewise.
absl::Status AlreadyExists(absl::string_view type, absl::string_view name);

// RESOURCE_EXHAUSTED that is worth trying again after `delay`.
absl::Status Overloaded(absl::string_view message, absl::Duration delay);

// Puts `prefix` before the message; the code and the details stay.
absl::Status Annotate(const absl::Status& status, absl::string_view prefix);

// Puts `prefix` before the field path of an InvalidField() error, joined with a
// dot ("items[3]" + "embedding"). Other errors are annotated with it.
absl::Status InField(const absl::Status& status, absl::string_view prefix);

struct ResourceDetail {
  std::string type;
  std::string name;
};

// What the functions above attached, if they did.
std::optional<std::string> GetField(const absl::Status& status);
std::optional<ResourceDetail> GetResource(const absl::Status& status);
std::optional<absl::Duration> GetRetryDelay(const absl::Status& status);

// `text` cut to `max_bytes` at a character boundary with "…" behind it, control
// and broken bytes escaped: for quoting what a caller sent in a message.
std::string Quoted(absl::string_view text, size_t max_bytes = 60);

}  // namespace quern
