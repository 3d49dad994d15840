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
  // Where one call can be made to fail.
  enum class Site { kCreate, kAppend, kShortAppend, kSync, kRename };
  // The nth call (from 1) of a kind fails, once, with `fault`; a short append
  // writes half of its bytes before.
  void FailCall(Site site, int64_t nth, Fault fault) {
    absl::MutexLock lock(&mutex_);
    site_ = site;
    calls_left_ = nth;
    call_fault_ = fault;
  }
  // The call of FailCall() has not come yet.
  bool fault_is_waiting() const {
    absl::MutexLock lock(&mutex_);
    return calls_left_ > 0;
  }

  // Syncs are told of and not done, so that a test does not wait for the disk.
  void skip_syncs() { skip_syncs_ = true; }

  // Each sync takes this much longer.
  void set_sync_delay(absl::Duration delay) { sync_delay_ = delay; }
  // A sync that fails takes this long.
  void set_failure_delay(absl::Duration delay) { failure_delay_ = delay; }
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
    rocksdb::IOStatus status = Check(Site::kCreate);
    if (!status.ok()) return status;
    status = target()->NewWritableFile(path, options, result, debug);
    if (status.ok()) *result = std::make_unique<File>(this, path, *result);
    return status;
  }

  rocksdb::IOStatus NewDirectory(const std::string& path,
                                 const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* result,
                                 rocksdb::IODebugContext* debug) override {
    if (!skip_syncs_) {
      return target()->NewDirectory(path, options, result, debug);
    }
    *result = std::make_unique<UnsyncedDirectory>();
    return rocksdb::IOStatus::OK();
  }

  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = Check(Site::kRename);
    if (!status.ok()) return status;
    status = target()->RenameFile(from, to, options, debug);
    if (status.ok()) SetSyncedBytes(to, SyncedBytes(from));
    return status;
  }

 private:
  class UnsyncedDirectory final : public rocksdb::FSDirectory {
   public:
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& /*options*/,
                            rocksdb::IODebugContext* /*debug*/) override {
      return rocksdb::IOStatus::OK();
    }
  };

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
      rocksdb::IOStatus status = files_->CheckAppend();
      if (status.ok()) return target()->Append(data, options, debug);
      WriteHalf(status, data, options, debug);
      return status;
    }

    rocksdb::IOStatus Append(const rocksdb::Slice& data,
                             const rocksdb::IOOptions& options,
                             const rocksdb::DataVerificationInfo& verification,
                             rocksdb::IODebugContext* debug) override {
      rocksdb::IOStatus status = files_->CheckAppend();
      if (status.ok()) {
        return target()->Append(data, options, verification, debug);
      }
      WriteHalf(status, data, options, debug);
      return status;
    }

    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
      return Synced(files_->skip_syncs_ ? rocksdb::IOStatus::OK()
                                        : target()->Sync(options, debug),
                    options, debug);
    }

    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                            rocksdb::IODebugContext* debug) override {
      return Synced(files_->skip_syncs_ ? rocksdb::IOStatus::OK()
                                        : target()->Fsync(options, debug),
                    options, debug);
    }

   private:
    // What a short append leaves behind.
    void WriteHalf(const rocksdb::IOStatus& status, const rocksdb::Slice& data,
                   const rocksdb::IOOptions& options,
                   rocksdb::IODebugContext* debug) {
      if (!absl::StrContains(status.ToString(), kShort)) return;
      target()
          ->Append(rocksdb::Slice(data.data(), data.size() / 2), options, debug)
          .PermitUncheckedError();
    }

    rocksdb::IOStatus Synced(rocksdb::IOStatus status,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) {
      if (status.ok()) status = files_->Check(Site::kSync);
      if (!status.ok()) {
        // So that others wait for it.
        absl::SleepFor(files_->failure_delay_);
        return status;
      }
      files_->RecordSync(path_, target()->GetFileSize(options, debug));
      return status;
    }

    FaultyFileSystem* const files_;
    const std::string path_;
  };

  static constexpr absl::string_view kShort = "short write";

  static rocksdb::IOStatus ErrorOf(Fault fault, absl::string_view what) {
    switch (fault) {
      case kDiskFull:
        return rocksdb::IOStatus::NoSpace("No space left on device",
                                          std::string(what));
      case kBroken:
        return rocksdb::IOStatus::IOError("Input/output error",
                                          std::string(what));
      default:
        return rocksdb::IOStatus::OK();
    }
  }

  // Whether this call of a kind goes through.
  rocksdb::IOStatus Check(Site site) {
    if (fault_ != kNone) return ErrorOf(fault_, "");
    absl::MutexLock lock(&mutex_);
    if (site != site_ || calls_left_ == 0 || --calls_left_ > 0) {
      return rocksdb::IOStatus::OK();
    }
    return ErrorOf(call_fault_, site == Site::kShortAppend ? kShort : "");
  }

  rocksdb::IOStatus CheckAppend() {
    rocksdb::IOStatus status = Check(Site::kAppend);
    return status.ok() ? Check(Site::kShortAppend) : status;
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
  std::atomic<bool> skip_syncs_ = false;
  std::atomic<absl::Duration> sync_delay_ = absl::ZeroDuration();
  std::atomic<absl::Duration> failure_delay_ = absl::ZeroDuration();
  std::atomic<int64_t> log_syncs_ = 0;
  mutable absl::Mutex mutex_;
  Site site_ ABSL_GUARDED_BY(mutex_) = Site::kCreate;
  int64_t calls_left_ ABSL_GUARDED_BY(mutex_) = 0;
  Fault call_fault_ ABSL_GUARDED_BY(mutex_) = kNone;
  std::map<std::string, uint64_t> synced_bytes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
