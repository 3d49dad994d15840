#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "rocksdb/file_system.h"

namespace quern {

// The system's files for RocksDB, with a disk that can fill up, break, be slow,
// and lose what was not synced. Thread-safe.
class FaultyFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  enum Fault { kNone, kDiskFull, kBroken };

  FaultyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "FaultyFileSystem"; }

  // From now on every write and sync fails; kNone heals.
  void set_fault(Fault fault) { fault_ = fault; }
  // Each sync takes this much longer.
  void set_sync_delay(absl::Duration delay) { sync_delay_ = delay; }
  // Syncs of write-ahead logs so far.
  int64_t log_syncs() const { return log_syncs_; }

  // Copies the flat folder `from` as a power cut would leave it: each file up
  // to where it was last synced.
  void CopyAfterPowerCut(const std::string& from, const std::string& to) const {
    std::filesystem::create_directories(to);
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      const uint64_t bytes = SyncedBytes(entry.path().string());
      if (bytes == 0) continue;
      const std::filesystem::path copy = to / entry.path().filename();
      std::filesystem::copy_file(entry.path(), copy);
      if (bytes < std::filesystem::file_size(copy)) {
        std::filesystem::resize_file(copy, bytes);
      }
    }
  }

  rocksdb::IOStatus NewWritableFile(
      const std::string& path, const rocksdb::FileOptions& options,
      std::unique_ptr<rocksdb::FSWritableFile>* result,
      rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = Check();
    if (!status.ok()) return status;
    status = target()->NewWritableFile(path, options, result, debug);
    if (status.ok()) *result = std::make_unique<File>(this, path, *result);
    return status;
  }

  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = target()->RenameFile(from, to, options, debug);
    if (status.ok()) SetSyncedBytes(to, SyncedBytes(from));
    return status;
  }

 private:
  class File final : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(FaultyFileSystem* files, std::string path,
         std::unique_ptr<rocksdb::FSWritableFile>& target)
        : FSWritableFileOwnerWrapper(std::move(target)),
          files_(files),
          path_(std::move(path)) {}

    rocksdb::IOStatus Append(const rocksdb::Slice& data,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      rocksdb::IOStatus status = files_->Check();
      return status.ok() ? target()->Append(data, options, debug) : status;
    }

    rocksdb::IOStatus Append(const rocksdb::Slice& data,
                             const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& verification,
                             rocksdb::IODebugContext* debug) override {
      rocksdb::IOStatus status = files_->Check();
      return status.ok() ? target()->Append(data, options, verification, debug)
                         : status;
    }

    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
      return Synced(target()->Sync(options, debug), options, debug);
    }

    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                            rocksdb::IODebugContext* debug) override {
      return Synced(target()->Fsync(options, debug), options, debug);
    }

   private:
    rocksdb::IOStatus Synced(rocksdb::IOStatus status,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) {
      if (status.ok()) status = files_->Check();
      if (!status.ok()) return status;
      files_->RecordSync(path_, target()->GetFileSize(options, debug));
      return status;
    }

    FaultyFileSystem* const files_;
    const std::string path_;
  };

  rocksdb::IOStatus Check() const {
    switch (fault_) {
      case kDiskFull:
        return rocksdb::IOStatus::NoSpace("No space left on device");
      case kBroken:
        return rocksdb::IOStatus::IOError("Input/output error");
      default:
        return rocksdb::IOStatus::OK();
    }
  }

  void RecordSync(const std::string& path, uint64_t bytes) {
    if (absl::EndsWith(path, ".log")) {
      ++log_syncs_;
      absl::SleepFor(sync_delay_);
    }
    SetSyncedBytes(path, bytes);
  }

  static std::string Normal(const std::string& path) {
    return std::filesystem::path(path).lexically_normal().string();
  }

  void SetSyncedBytes(const std::string& path, uint64_t bytes) {
    absl::MutexLock lock(&mutex_);
    synced_bytes_[Normal(path)] = bytes;
  }

  uint64_t SyncedBytes(const std::string& path) const {
    absl::MutexLock lock(&mutex_);
    const auto known = synced_bytes_.find(Normal(path));
    return known == synced_bytes_.end() ? 0 : known->second;
  }

  std::atomic<Fault> fault_ = kNone;
  std::atomic<absl::Duration> sync_delay_ = absl::ZeroDuration();
  std::atomic<int64_t> log_syncs_ = 0;
  mutable absl::Mutex mutex_;
  std::map<std::string, uint64_t> synced_bytes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
