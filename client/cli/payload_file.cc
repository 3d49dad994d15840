#include "client/cli/payload_file.h"

#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "client/cli/json_format.h"

namespace quern::cli {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

// Takes a string field out of `fields`. Empty when it is not there.
absl::StatusOr<std::string> TakeString(Struct& fields, const std::string& key) {
  const auto found = fields.fields().find(key);
  if (found == fields.fields().end()) return std::string();
  if (found->second.kind_case() != Value::kStringValue ||
      found->second.string_value().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", key, "\" is not a text"));
  }
  std::string value = found->second.string_value();
  fields.mutable_fields()->erase(key);
  return value;
}

struct Entry {
  std::string file;
  FilePayload payload;
};

absl::StatusOr<Entry> ParseLine(absl::string_view text) {
  absl::StatusOr<Struct> fields = ParsePayload(text);
  if (!fields.ok()) return fields.status();
  absl::StatusOr<std::string> file = TakeString(*fields, "file");
  if (!file.ok()) return file.status();
  if (file->empty()) return absl::InvalidArgumentError("has no \"file\"");
  absl::StatusOr<std::string> id = TakeString(*fields, "id");
  if (!id.ok()) return id.status();
  return Entry{*std::move(file), {0, *std::move(id), *std::move(fields)}};
}

absl::Status At(const std::filesystem::path& path, int line,
                absl::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ", line ", line, ": ", message));
}

}  // namespace

absl::StatusOr<std::map<std::string, FilePayload>> ReadPayloadFile(
    const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return absl::ErrnoToStatus(errno, path.string());
  std::map<std::string, FilePayload> payloads;
  std::map<std::string, int> line_of_id;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    absl::StatusOr<Entry> entry = ParseLine(text);
    if (!entry.ok()) return At(path, line, entry.status().message());
    entry->payload.line = line;
    const std::string& id =
        entry->payload.id.empty() ? entry->file : entry->payload.id;
    if (const auto [same, is_new] = line_of_id.emplace(id, line); !is_new) {
      return At(path, line,
                absl::StrCat("the id \"", id, "\" is line ", same->second,
                             "'s already"));
    }
    const auto [same, is_new] =
        payloads.emplace(entry->file, std::move(entry->payload));
    if (!is_new) {
      return At(path, line,
                absl::StrCat("\"", same->first, "\" is line ",
                             same->second.line, "'s already"));
    }
  }
  if (file.bad()) return absl::ErrnoToStatus(EIO, path.string());
  return payloads;
}

}  // namespace quern::cli
