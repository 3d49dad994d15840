#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rocksdb/env.h"
#include "rocksdb/status.h"

namespace quern {

// Whether RocksDB's logs of writes are on the disk, which RocksDB itself is not
// to know. A log that is full is synced by whoever comes first, a write or a
// flush, and by the other one again; where the first failed, Debian's RocksDB,
// which has its assertions compiled in, ends the process then
// (WritableFileWriter::AssertFalseAndGetStatusForPrevError(), 7.8). So syncs of
// logs never fail as RocksDB sees it, and who wrote asks here. After a failure
// it can make no more files: what is flushed without its log might be half of a
// write after a power cut. Thread-safe.
class LogSyncs {
 public:
  // The first failure; OK while there is none.
  rocksdb::Status status() const {
    const absl::MutexLock lock(&mutex_);
    return status_;
  }

  void Record(const rocksdb::Status& status) {
    const absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }

 private:
  mutable absl::Mutex mutex_;
  rocksdb::Status status_ ABSL_GUARDED_BY(mutex_);
};

// `base` (not null; it must outlive the result), with syncs of the logs in
// `folder` told to `syncs`.
std::unique_ptr<rocksdb::Env> MakeLogSyncEnv(
    rocksdb::Env* base, const std::string& folder,
    const std::shared_ptr<LogSyncs>& syncs);

}  // namespace quern
