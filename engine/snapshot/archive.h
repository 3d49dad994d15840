#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/base/request_context.h"
#include "engine/snapshot/manifest.h"

// A snapshot as one tar file: `snapshot.json` first, then the files that it
// names, in its order, and nothing else. Equal snapshots give equal bytes.

namespace quern {

inline constexpr int64_t kMaxArchivePieceBytes = 1 << 20;

// Makes the tar of a snapshot piece by piece. Not thread-safe.
class ArchiveReader {
 public:
  // The folder must stay until the reader goes.
  static absl::StatusOr<std::unique_ptr<ArchiveReader>> Open(
      const std::string& directory);
  ~ArchiveReader();

  ArchiveReader(const ArchiveReader&) = delete;
  ArchiveReader& operator=(const ArchiveReader&) = delete;

  // At most kMaxArchivePieceBytes; nullopt at the end. Errors: kDataLoss for a
  // file that does not fit its checksum, found where the file ends.
  absl::StatusOr<std::optional<std::string>> Next();

 private:
  class Tar;

  explicit ArchiveReader(std::unique_ptr<Tar> tar);

  const std::unique_ptr<Tar> tar_;
};

// The next piece of a tar; nullopt at its end.
using ArchiveSource =
    std::function<absl::StatusOr<std::optional<std::string>>()>;

// Unpacks a tar into `directory`, which is empty, and verifies it on the way:
// every file that the manifest names is there, once, with its checksum, and no
// other. What was written when it failed stays for the caller to remove.
// Errors:
//   kInvalidArgument     not such a tar: truncated, changed, with entries that
//                        a snapshot does not have
//   kFailedPrecondition  made by a newer Quern
//   kResourceExhausted   the disk has no room
//   those of `source` and of the context
absl::StatusOr<SnapshotManifest> UnpackArchive(const ArchiveSource& source,
                                               const std::string& directory,
                                               const RequestContext& context);

}  // namespace quern
