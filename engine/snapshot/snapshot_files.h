#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/base/request_context.h"

// Copying and moving the files of snapshots. Errors are those of the system
// call, naming the path, as in engine/base/file.h; a full disk is
// kResourceExhausted.

namespace quern {

// Equal for two names of one file.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t bytes = 0;

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// Errors: also kDataLoss for what is not a regular file.
absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path);

// Paths relative to `directory` of the regular files in it and its folders, in
// byte order. Errors: also kDataLoss for a link, a device, or the like.
absl::StatusOr<std::vector<std::string>> ListFiles(
    const std::string& directory);

// Names of the folders in `directory`, hidden ones included; none where it is
// not there.
absl::StatusOr<std::vector<std::string>> ListFolders(
    const std::string& directory);

// Its SHA-256 in lower-case hexadecimal. Errors: also those of the context,
// which is asked between pieces.
absl::StatusOr<std::string> HashFile(const std::string& path,
                                     const RequestContext& context);

// What of a folder's files may get a second name; the rest is copied.
enum class Linked {
  kSortedFiles,  // Of a RocksDB: it appends to its other files.
  kAll           // Of an index: it replaces files, and changes none.
};

// Brings the files of the flat folder `from` into `to`, but none called *.tmp.
// What names others (manifest, *.json) goes first, so that a reader of it
// finds the files that were there at the time. Errors: kNotFound when one was
// removed meanwhile.
absl::Status CopyFolder(const std::string& from, const std::string& to,
                        Linked linked, const RequestContext& context);

// Bytes that this process may still write to the disk of `directory`.
absl::StatusOr<int64_t> FreeBytes(const std::string& directory);

// Everything below `directory` is there after a crash.
absl::Status SyncTree(const std::string& directory);

// Errors: kAlreadyExists where `to` is there.
absl::Status RenameFolder(const std::string& from, const std::string& to);

}  // namespace quern
