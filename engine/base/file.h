#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/sha256.h"

// Files and folders, with errors that name the path. Unless a function says
// otherwise, its errors are those of the system call: kNotFound,
// kPermissionDenied, kResourceExhausted (the disk is full), and so on.

namespace quern {

// Makes sure that `path` is a folder which this process may write to; creates
// it and its parents where they lack, and syncs what it created. Errors:
//   kPermissionDenied    it, or the parent it must be created in, is not
//   writable kFailedPrecondition  something else than a folder has that name
absl::Status EnsureDirectory(const std::string& path);

// The whole file. Errors: also kInvalidArgument when it has more than
// `max_bytes`.
absl::StatusOr<std::string> ReadFile(
    const std::string& path,
    int64_t max_bytes = std::numeric_limits<int64_t>::max());

// The real path of what a caller named: "file:///a/b", "/a/b", or "b", which is
// looked for below each root in turn. Symbolic links are followed before it is
// decided what lies where. Errors:
//   kInvalidArgument    `path` is empty, longer than 4,096 bytes, or has a NUL
//   kNotFound           nothing is there
//   kPermissionDenied   it lies below none of `roots`; also for what is not
//                       there, so that a caller learns nothing of the rest
absl::StatusOr<std::string> ResolveBelow(absl::string_view path,
                                         absl::Span<const std::string> roots);

// Replaces the file at `path`, or creates it: after a crash there is the old
// file or the new one, whole; after OK there is the new one. Two writers of one
// path must not run at the same time.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents);

// Removes the file; after OK it is gone for good, also after a crash.
absl::Status RemoveFileDurably(const std::string& path);

// What was written to the file, or created, renamed and removed in the folder,
// is there after a crash.
absl::Status SyncFile(const std::string& path);
absl::Status SyncDirectory(const std::string& path);

// As Sha256Hex() of the file's bytes.
absl::StatusOr<std::string> Sha256HexOfFile(const std::string& path);

// A folder held for this process alone, until the object goes or the process
// ends. The holder's process id is in the file "LOCK" in the folder; the file
// stays behind and means nothing without its holder. Thread-safe.
class DirectoryLock {
 public:
  // The folder must exist.
  // Errors:
  //   kFailedPrecondition  another holder has it; names the folder and the
  //   holder
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Acquire(
      const std::string& directory);

  ~DirectoryLock();

  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int descriptor) : descriptor_(descriptor) {}

  const int descriptor_;
};

}  // namespace quern
