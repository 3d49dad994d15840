#include "engine/base/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "engine/base/utf8.h"

namespace quern {
namespace {

constexpr absl::string_view kFieldUrl = "quern/field";
constexpr absl::string_view kResourceUrl = "quern/resource";
constexpr absl::string_view kRetryUrl = "quern/retry";

void CopyPayloads(const absl::Status& from, absl::Status& to) {
  from.ForEachPayload([&to](absl::string_view url, const absl::Cord& payload) {
    to.SetPayload(url, payload);
  });
}

std::optional<std::string> Payload(const absl::Status& status,
                                   absl::string_view url) {
  const auto payload = status.GetPayload(url);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

absl::Status ResourceError(absl::StatusCode code, absl::string_view type,
                           absl::string_view name, absl::string_view what) {
  absl::Status status(code, absl::StrCat(type, " ", Quoted(name), " ", what));
  status.SetPayload(kResourceUrl, absl::Cord(absl::StrCat(type, "\n", name)));
  return status;
}

}  // namespace

absl::Status InvalidField(absl::string_view field, absl::string_view message) {
  absl::Status status =
      absl::InvalidArgumentError(absl::StrCat(field, ": ", message));
  status.SetPayload(kFieldUrl, absl::Cord(field));
  return status;
}

absl::Status NotFound(absl::string_view type, absl::string_view name) {
  return ResourceError(absl::StatusCode::kNotFound, type, name,
                       "does not exist");
}

absl::Status AlreadyExists(absl::string_view type, absl::string_view name) {
  return ResourceError(absl::StatusCode::kAlreadyExists, type, name,
                       "exists already");
}

absl::Status Overloaded(absl::string_view message, absl::Duration delay) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kRetryUrl,
                    absl::Cord(absl::StrCat(absl::ToInt64Nanoseconds(delay))));
  return status;
}

absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(),
                         absl::StrCat(prefix, ": ", status.message()));
  CopyPayloads(status, annotated);
  return annotated;
}

absl::Status InField(const absl::Status& status, absl::string_view prefix) {
  std::optional<std::string> field = GetField(status);
  if (!field.has_value()) return Annotate(status, prefix);
  const std::string path = absl::StrCat(prefix, ".", *field);
  absl::Status annotated(status.code(),
                         absl::StrCat(prefix, ".", status.message()));
  CopyPayloads(status, annotated);
  annotated.SetPayload(kFieldUrl, absl::Cord(path));
  return annotated;
}

std::optional<std::string> GetField(const absl::Status& status) {
  return Payload(status, kFieldUrl);
}

std::optional<ResourceDetail> GetResource(const absl::Status& status) {
  std::optional<std::string> payload = Payload(status, kResourceUrl);
  if (!payload.has_value()) return std::nullopt;
  std::pair<std::string, std::string> parts =
      absl::StrSplit(*payload, absl::MaxSplits('\n', 1));
  return ResourceDetail{.type = parts.first, .name = parts.second};
}

std::optional<absl::Duration> GetRetryDelay(const absl::Status& status) {
  std::optional<std::string> payload = Payload(status, kRetryUrl);
  int64_t nanoseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(*payload, &nanoseconds)) {
    return std::nullopt;
  }
  return absl::Nanoseconds(nanoseconds);
}

std::string Quoted(absl::string_view text, size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  if (cut) {
    size_t end = max_bytes;
    // A continuation byte after the cut: it goes through a character.
    while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
    text = text.substr(0, end);
  }
  return absl::StrCat("\"",
                      IsValidUtf8(text) ? absl::Utf8SafeCHexEscape(text)
                                        : absl::CHexEscape(text),
                      cut ? "…" : "", "\"");
}

}  // namespace quern
