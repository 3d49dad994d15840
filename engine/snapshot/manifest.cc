#include "engine/snapshot/manifest.h"

#include <algorithm>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/snapshot/snapshot_files.h"

namespace quern {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFiles = 100'000;
constexpr size_t kMaxFileNameBytes = 128;
constexpr size_t kSha256Characters = 64;
// So that their sum is a number, too.
constexpr int64_t kMaxFileBytes = int64_t{1} << 45;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Shown(const Json& json) { return Quoted(Dump(json)); }

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(what);
}

absl::StatusOr<std::string> Text(const Json& json, const char* key) {
  const auto value = json.find(key);
  if (value == json.end() || !value->is_string()) {
    return Damaged(absl::StrCat("it has no text \"", key, "\""));
  }
  return value->get<std::string>();
}

absl::StatusOr<int64_t> Count(const Json& json, const char* key, int64_t max) {
  const auto value = json.find(key);
  if (value == json.end() || !value->is_number_integer()) {
    return Damaged(absl::StrCat("it has no whole number \"", key, "\""));
  }
  const bool is_in_range = value->is_number_unsigned() &&
                           value->get<uint64_t>() <= static_cast<uint64_t>(max);
  if (!is_in_range) {
    return Damaged(absl::StrCat("its \"", key, "\" is ", Shown(*value),
                                ", not 0 to ", max));
  }
  return value->get<int64_t>();
}

absl::StatusOr<absl::Time> Time(const Json& json, const char* key) {
  QUERN_ASSIGN_OR_RETURN(const std::string text, Text(json, key));
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return Damaged(absl::StrCat("its \"", key, "\" is ", Quoted(text),
                                ", which is no RFC 3339 time"));
  }
  return time;
}

absl::StatusOr<SnapshotFile> ParseFile(const Json& json) {
  if (!json.is_object()) return Damaged("a file is not an object");
  SnapshotFile file;
  QUERN_ASSIGN_OR_RETURN(file.path, Text(json, "path"));
  if (absl::Status status = CheckFilePath(file.path); !status.ok()) {
    return Damaged(status.message());
  }
  QUERN_ASSIGN_OR_RETURN(file.bytes, Count(json, "bytes", kMaxFileBytes));
  QUERN_ASSIGN_OR_RETURN(file.sha256, Text(json, "sha256"));
  const bool is_hex = std::all_of(
      file.sha256.begin(), file.sha256.end(),
      [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
  if (!is_hex || file.sha256.size() != kSha256Characters) {
    return Damaged(absl::StrCat("file ", file.path, " has no SHA-256"));
  }
  return file;
}

absl::StatusOr<std::vector<SnapshotFile>> ParseFiles(const Json& json) {
  const auto list = json.find("files");
  if (list == json.end() || !list->is_array() || list->size() > kMaxFiles) {
    return Damaged(
        absl::StrCat("it has no list \"files\" of at most ", kMaxFiles));
  }
  std::vector<SnapshotFile> files;
  files.reserve(list->size());
  for (const Json& entry : *list) {
    QUERN_ASSIGN_OR_RETURN(SnapshotFile file, ParseFile(entry));
    // Their order also keeps a path from coming twice.
    if (!files.empty() && file.path <= files.back().path) {
      return Damaged(absl::StrCat("its files are not in order at ", file.path));
    }
    files.push_back(std::move(file));
  }
  return files;
}

absl::Status CheckVersion(const Json& json) {
  QUERN_ASSIGN_OR_RETURN(
      const int64_t version,
      Count(json, "format_version", std::numeric_limits<int64_t>::max()));
  if (version > kSnapshotFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot was made by a newer version of Quern (its format is ",
        version, "; this version reads ", kSnapshotFormatVersion,
        "): use that version"));
  }
  if (version < 1) return Damaged("its format is 0");
  return absl::OkStatus();
}

}  // namespace

int64_t SnapshotManifest::size_bytes() const {
  int64_t bytes = 0;
  for (const SnapshotFile& file : files) bytes += file.bytes;
  return bytes;
}

std::string FormatSnapshotManifest(const SnapshotManifest& manifest) {
  Json files = Json::array();
  for (const SnapshotFile& file : manifest.files) {
    files.push_back(
        {{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  Json json = {
      {"format_version", kSnapshotFormatVersion},
      {"collection", manifest.collection},
      {"name", manifest.name},
      {"item_count", manifest.item_count},
      {"create_time", absl::FormatTime(absl::RFC3339_full, manifest.create_time,
                                       absl::UTCTimeZone())},
      {"model_fingerprint", manifest.model_fingerprint},
      {"files", std::move(files)}};
  json["sha256"] = Sha256Hex(Dump(json));
  return absl::StrCat(json.dump(1, ' ', false, Json::error_handler_t::replace),
                      "\n");
}

absl::StatusOr<SnapshotManifest> ParseSnapshotManifest(absl::string_view text) {
  Json json = Json::parse(text.begin(), text.end(), nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object()) return Damaged("it is not a JSON object");
  // Before the checksum: only this much is known of a newer format.
  QUERN_RETURN_IF_ERROR(CheckVersion(json));
  QUERN_ASSIGN_OR_RETURN(const std::string sha256, Text(json, "sha256"));
  json.erase("sha256");
  if (Sha256Hex(Dump(json)) != sha256) {
    return Damaged("its contents do not fit its checksum");
  }
  SnapshotManifest manifest;
  QUERN_ASSIGN_OR_RETURN(manifest.collection, Text(json, "collection"));
  QUERN_ASSIGN_OR_RETURN(manifest.name, Text(json, "name"));
  QUERN_ASSIGN_OR_RETURN(
      manifest.item_count,
      Count(json, "item_count", std::numeric_limits<int64_t>::max()));
  QUERN_ASSIGN_OR_RETURN(manifest.create_time, Time(json, "create_time"));
  QUERN_ASSIGN_OR_RETURN(manifest.model_fingerprint,
                         Text(json, "model_fingerprint"));
  QUERN_ASSIGN_OR_RETURN(manifest.files, ParseFiles(json));
  return manifest;
}

absl::StatusOr<SnapshotManifest> ReadSnapshotManifest(
    const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kSnapshotManifestFile);
  QUERN_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(path, kMaxSnapshotManifestBytes));
  absl::StatusOr<SnapshotManifest> manifest = ParseSnapshotManifest(text);
  if (manifest.ok()) return manifest;
  return Annotate(manifest.status(), absl::IsDataLoss(manifest.status())
                                         ? absl::StrCat(path, " is damaged")
                                         : path);
}

absl::Status CheckFilePath(absl::string_view path) {
  if (path == "collection.json") return absl::OkStatus();
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  const auto is_plain = [](absl::string_view name) {
    return !name.empty() && name.size() <= kMaxFileNameBytes &&
           name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
             return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
           });
  };
  if (parts.size() == 2 && (parts[0] == "items" || parts[0] == "index") &&
      is_plain(parts[1])) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(path), " is not the path of a file of a snapshot"));
}

absl::Status VerifyFiles(const std::string& directory,
                         const SnapshotManifest& manifest,
                         const RequestContext& context) {
  for (const SnapshotFile& file : manifest.files) {
    const std::string path = absl::StrCat(directory, "/", file.path);
    const auto damaged = [&path](absl::string_view what) {
      return absl::DataLossError(absl::StrCat(
          "the snapshot is damaged: ", path, " ", what,
          ": use another snapshot, or copy it anew from where it came"));
    };
    const absl::StatusOr<FileIdentity> found = IdentifyFile(path);
    if (absl::IsNotFound(found.status())) return damaged("is missing");
    QUERN_RETURN_IF_ERROR(found.status());
    if (found->bytes != file.bytes) {
      return damaged(
          absl::StrCat("has ", found->bytes, " bytes, not ", file.bytes));
    }
    QUERN_ASSIGN_OR_RETURN(const std::string sha256, HashFile(path, context));
    if (sha256 != file.sha256) return damaged("does not fit its checksum");
  }
  // RocksDB would replay a log that does not belong there.
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                         ListFiles(directory));
  auto file = manifest.files.begin();  // Both are in order.
  for (const std::string& path : paths) {
    if (path == kSnapshotManifestFile) continue;
    if (file != manifest.files.end() && file->path == path) {
      ++file;
      continue;
    }
    return absl::DataLossError(absl::StrCat(
        "the snapshot is damaged: ", directory, "/", path,
        " is not one of its files: remove it, or use another snapshot"));
  }
  return absl::OkStatus();
}

}  // namespace quern
