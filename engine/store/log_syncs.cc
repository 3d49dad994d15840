#include "engine/store/log_syncs.h"

#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "rocksdb/file_system.h"

#include "engine/store/bulk_env.h"

namespace quern {
namespace {

class LogFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  LogFile(std::unique_ptr<rocksdb::FSWritableFile> target,
          std::shared_ptr<LogSyncs> syncs)
      : FSWritableFileOwnerWrapper(std::move(target)),
        syncs_(std::move(syncs)) {}

  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* debug) override {
    return Told(target()->Sync(options, debug));
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* debug) override {
    return Told(target()->Fsync(options, debug));
  }

 private:
  rocksdb::IOStatus Told(const rocksdb::IOStatus& status) {
    if (!status.ok()) syncs_->Record(status);
    return rocksdb::IOStatus::OK();
  }

  const std::shared_ptr<LogSyncs> syncs_;
};

class LogSyncFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  LogSyncFileSystem(const std::shared_ptr<rocksdb::FileSystem>& base,
                    const std::string& folder, std::shared_ptr<LogSyncs> syncs)
      : FileSystemWrapper(base),
        folder_(std::filesystem::path(folder).lexically_normal()),
        syncs_(std::move(syncs)) {}

  const char* Name() const override { return "quern.LogSyncFileSystem"; }

  rocksdb::IOStatus NewWritableFile(
      const std::string& path, const rocksdb::FileOptions& options,
      std::unique_ptr<rocksdb::FSWritableFile>* result,
      rocksdb::IODebugContext* debug) override {
    if (!IsInFolder(path)) {  // Of a copy of the store.
      return target()->NewWritableFile(path, options, result, debug);
    }
    if (const rocksdb::Status failed = syncs_->status(); !failed.ok()) {
      return rocksdb::status_to_io_status(rocksdb::Status(failed));
    }
    rocksdb::IOStatus status =
        target()->NewWritableFile(path, options, result, debug);
    if (status.ok() && absl::EndsWith(path, ".log")) {
      *result = std::make_unique<LogFile>(std::move(*result), syncs_);
    }
    return status;
  }

 private:
  bool IsInFolder(const std::string& path) const {
    return std::filesystem::path(path).parent_path().lexically_normal() ==
           folder_;
  }

  const std::filesystem::path folder_;
  const std::shared_ptr<LogSyncs> syncs_;
};

class LogSyncEnv final : public BulkEnv {
 public:
  LogSyncEnv(rocksdb::Env* base, const std::string& folder,
             const std::shared_ptr<LogSyncs>& syncs)
      : BulkEnv(base) {
    file_system_ = std::make_shared<LogSyncFileSystem>(base->GetFileSystem(),
                                                       folder, syncs);
  }
};

}  // namespace

std::unique_ptr<rocksdb::Env> MakeLogSyncEnv(
    rocksdb::Env* base, const std::string& folder,
    const std::shared_ptr<LogSyncs>& syncs) {
  return std::make_unique<LogSyncEnv>(base, folder, syncs);
}

}  // namespace quern
