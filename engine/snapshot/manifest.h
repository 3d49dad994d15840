#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"

// What `snapshot.json` says of a snapshot. README.md of this folder has its
// keys.

namespace quern {

inline constexpr int64_t kSnapshotFormatVersion = 1;
inline constexpr absl::string_view kSnapshotManifestFile = "snapshot.json";
// 100,000 files need about this much.
inline constexpr int64_t kMaxSnapshotManifestBytes = 16 << 20;

struct SnapshotFile {
  std::string path;  // Relative to the snapshot, see CheckFilePath().
  int64_t bytes = 0;
  std::string sha256;  // Lower-case hexadecimal.
};

struct SnapshotManifest {
  // Where it was made; a snapshot that was imported may be filed elsewhere.
  std::string collection;
  std::string name;
  int64_t item_count = 0;
  absl::Time create_time;
  std::string model_fingerprint;    // Empty for a collection without a model.
  std::vector<SnapshotFile> files;  // In byte order of their paths.

  // Of all files together.
  int64_t size_bytes() const;
};

// The text of `snapshot.json`, with a checksum of its own. Equal manifests give
// equal texts.
std::string FormatSnapshotManifest(const SnapshotManifest& manifest);

// The inverse. Errors:
//   kDataLoss            the text is damaged or names a file that no snapshot
//                        has; says what, not where
//   kFailedPrecondition  a newer Quern wrote it
absl::StatusOr<SnapshotManifest> ParseSnapshotManifest(absl::string_view text);

// The manifest of the snapshot in `directory`. Errors: as
// ParseSnapshotManifest(), naming the file; kNotFound.
absl::StatusOr<SnapshotManifest> ReadSnapshotManifest(
    const std::string& directory);

// Errors: kInvalidArgument unless `path` is "collection.json", or a plain file
// name below "items" or "index".
absl::Status CheckFilePath(absl::string_view path);

// Whether the files in `directory` are those of the manifest, byte for byte,
// and no others. Errors: kDataLoss naming the first that is not; those of the
// context.
absl::Status VerifyFiles(const std::string& directory,
                         const SnapshotManifest& manifest,
                         const RequestContext& context);

}  // namespace quern
