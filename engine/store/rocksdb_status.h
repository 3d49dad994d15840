#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace rocksdb {
class Status;
}  // namespace rocksdb

// RocksDB's errors in the words of ItemStore. `path` is the store's folder. OK
// stays OK.

namespace quern {

// Errors:
//   kFailedPrecondition  another process has the store open
//   kPermissionDenied, kResourceExhausted (disk full), kDataLoss (damaged)
absl::Status FromOpen(const rocksdb::Status& status, absl::string_view path);

// Errors:
//   kResourceExhausted   the disk is full
//   kFailedPrecondition  read-only since an I/O error, this one or an earlier
//   kDataLoss            damaged files
absl::Status FromWrite(const rocksdb::Status& status, absl::string_view path);

// Errors: kDataLoss for everything that cannot be read.
absl::Status FromRead(const rocksdb::Status& status, absl::string_view path);

// Of copying the store. Errors: kResourceExhausted (the disk is full),
// kAlreadyExists (the copy's folder), kInternal.
absl::Status FromCheckpoint(const rocksdb::Status& status,
                            absl::string_view path);

}  // namespace quern
