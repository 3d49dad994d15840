#include "engine/store/rocksdb_status.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rocksdb/status.h"

namespace quern {
namespace {

// A write that comes upon an earlier one's failure is "incomplete", with the
// failure in the message alone.
bool IsDiskFull(const rocksdb::Status& status) {
  return status.IsNoSpace() ||
         status.subcode() == rocksdb::Status::kSpaceLimit ||
         (status.IsIncomplete() &&
          absl::StrContains(status.ToString(), "No space left on device"));
}

// RocksDB tells these two kinds of I/O error apart in the message alone.
bool IsHeldByAnother(absl::string_view message) {
  return absl::StrContains(message, "While lock file") ||
         absl::StrContains(message, "lock hold by current process");
}

bool IsForbidden(absl::string_view message) {
  return absl::StrContains(message, "Permission denied") ||
         absl::StrContains(message, "Read-only file system");
}

absl::Status DiskFull(absl::string_view path, absl::string_view message) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the disk is full: the store at ", path,
                   " takes no more until there is room (", message, ")"));
}

absl::Status Damaged(absl::string_view path, absl::string_view message) {
  return absl::DataLossError(
      absl::StrCat("the store at ", path, " is damaged: ", message));
}

absl::Status Unexpected(absl::string_view path, absl::string_view message) {
  return absl::InternalError(
      absl::StrCat("the store at ", path, " failed: ", message));
}

}  // namespace

absl::Status FromOpen(const rocksdb::Status& status, absl::string_view path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = status.ToString();
  if (IsDiskFull(status)) return DiskFull(path, message);
  // A file that the manifest names and the folder lacks is a path not found.
  if (status.IsCorruption() || status.IsPathNotFound()) {
    return Damaged(path, message);
  }
  if (IsHeldByAnother(message)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store at ", path, " is in use by another server: ",
                     "stop that one, or give this one a folder of its own"));
  }
  if (IsForbidden(message)) {
    return absl::PermissionDeniedError(
        absl::StrCat("the store at ", path, " is not writable: ", message));
  }
  return Unexpected(path, message);
}

absl::Status FromWrite(const rocksdb::Status& status, absl::string_view path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = status.ToString();
  if (IsDiskFull(status)) return DiskFull(path, message);
  if (status.IsCorruption()) return Damaged(path, message);
  if (status.IsIOError() || status.IsIncomplete()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the store at ", path, " is read-only since an I/O error (", message,
        "): check the disk, then restart the server"));
  }
  return Unexpected(path, message);
}

absl::Status FromRead(const rocksdb::Status& status, absl::string_view path) {
  if (status.ok()) return absl::OkStatus();
  if (status.IsCorruption() || status.IsIOError() || status.IsNotFound()) {
    return Damaged(path, status.ToString());
  }
  return Unexpected(path, status.ToString());
}

absl::Status FromCheckpoint(const rocksdb::Status& status,
                            absl::string_view path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = status.ToString();
  if (IsDiskFull(status)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the disk is full: the store at ", path, " cannot be copied (", message,
        "): make room and try again"));
  }
  if (status.IsInvalidArgument()) {
    return absl::AlreadyExistsError(
        absl::StrCat("the store at ", path, " cannot be copied: ", message));
  }
  return Unexpected(path, message);
}

}  // namespace quern
