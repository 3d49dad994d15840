#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/base/clock.h"
#include "engine/store/item_store.h"

namespace rocksdb {
class Cache;
class Env;
}  // namespace rocksdb

namespace quern {

// When a write is on the disk. A killed process loses nothing in any mode.
enum class SyncMode {
  kEveryWrite,  // Before the write returns. Writers that run at the same time
                // share a sync.
  kInterval,    // Within `sync_interval`: a power cut loses what was written
                // since the last sync.
  kNever,       // When the operating system likes: a power cut loses the last
                // seconds. For imports that can be run again, and for tests.
};

// A cache of `bytes` for blocks read from disk, to be shared by several stores.
std::shared_ptr<rocksdb::Cache> CreateBlockCache(int64_t bytes);

struct RocksdbItemStoreOptions {
  std::string path;       // The store's own folder; created where it lacks.
  int64_t dimension = 0;  // Of every embedding; >= 1.
  SyncMode sync = SyncMode::kEveryWrite;
  absl::Duration sync_interval = absl::Seconds(1);  // Of kInterval; above 0.
  // Null: 8 MiB of its own.
  std::shared_ptr<rocksdb::Cache> block_cache = nullptr;
  // Memory for writes not yet in sorted files, all together, and the log that
  // is replayed by Open() is bounded by twice of it; >= 64 KiB.
  int64_t write_buffer_bytes = 16 << 20;
  // By which items expire; must outlive the store. Null: the system's.
  const Clock* clock = nullptr;
  // Not empty: the folder is only read, not even locked, and nothing in it may
  // change meanwhile, as in a Checkpoint(). Put() and Delete() are refused as
  // kFailedPrecondition with this for the reason.
  std::string read_only;
  // For tests: files and threads. Must outlive the store. Null: the system's.
  rocksdb::Env* env = nullptr;
};

// One collection's items in one RocksDB folder. The layout on disk is in
// README.md. After an I/O error it takes no more writes and goes on reading;
// after a full disk the first write for which there is room opens the folder
// again, and reads wait for that (milliseconds; see `write_buffer_bytes`).
// Thread-safe.
class RocksdbItemStore final : public ItemStore {
 public:
  // Opens the store, or creates it where the folder is empty; one of an older
  // format is upgraded in place. The time does not grow with the number of
  // items. One that can be read and not written, because the disk is full or
  // broken, rights lack, or a file is damaged, is opened to be read:
  // write_status() says why.
  // Errors, unless it can be read:
  //   kInvalidArgument     an option out of its range
  //   kFailedPrecondition  another server has it open; it was written by a
  //   newer
  //                        Quern or for another dimension; the path is a file
  //   kPermissionDenied    the folder is not writable
  //   kResourceExhausted   the disk is full
  //   kDataLoss            damaged files
  static absl::StatusOr<std::unique_ptr<RocksdbItemStore>> Open(
      const RocksdbItemStoreOptions& options);

  ~RocksdbItemStore() override;

  absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) override;
  absl::StatusOr<Item> Update(
      const std::string& id,
      const std::function<absl::Status(Item&)>& change) override;
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) override;
  absl::StatusOr<std::vector<std::string>> RemoveExpired(
      int64_t limit) override;
  absl::StatusOr<std::vector<std::string>> ListExpired(
      std::string* place, int64_t limit) const override;
  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override;
  absl::Status GetEmbeddings(
      absl::Span<const std::string> ids,
      const std::function<void(size_t, absl::Span<const float>)>& visit)
      const override;
  absl::Status VisitParts(absl::Span<const std::string> ids,
                          const std::function<bool(size_t, absl::string_view)>&
                              visit) const override;
  absl::Status Scan(absl::string_view after_id, ItemParts parts,
                    const std::function<bool(Item)>& visit) const override;
  uint64_t last_sequence() const override;
  absl::Status ScanChanges(
      uint64_t after,
      const std::function<bool(uint64_t, absl::string_view)>& visit)
      const override;
  absl::Status Import(absl::Span<const Item> items,
                      absl::Span<const std::string> removed,
                      uint64_t sequence) override;
  void KeepChanges(std::optional<uint64_t> after) override;
  absl::Status TrimChanges(uint64_t up_to) override;
  uint64_t trimmed_sequence() const override;
  absl::Status write_status() const override;
  absl::Status Checkpoint(const std::string& directory) const override;
  int64_t count() const override;
  int64_t disk_bytes() const override;

 private:
  class Database;

  explicit RocksdbItemStore(const RocksdbItemStoreOptions& options);

  // Calls `work` with the open database, which stays open meanwhile; With()
  // reads, Write() opens the folder again where the disk was full.
  template <typename Work>
  auto With(Work work) const -> std::invoke_result_t<Work, Database&>;
  template <typename Work>
  auto Write(Work work) -> std::invoke_result_t<Work, Database&>;

  // What every write asks first.
  absl::Status PrepareToWrite();
  // Errors: kResourceExhausted while the disk is full.
  absl::Status CheckRoom() const;
  // Opens the folder again where a write has found the disk full and there is
  // room now. Errors: those of CheckRoom() and Open(); kResourceExhausted when
  // readers do not let go of it.
  absl::Status RecoverFromFullDisk();
  // Sets `database_`, which may refuse writes, or says in `closed_` why not.
  absl::Status Reopen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::unique_ptr<Database>> OpenDatabase() const;

  const RocksdbItemStoreOptions options_;
  // What came later stays in the change log.
  std::atomic<uint64_t> kept_after_ = std::numeric_limits<uint64_t>::max();

  mutable absl::Mutex mutex_;
  std::unique_ptr<Database> database_ ABSL_GUARDED_BY(mutex_);
  // Why `database_` is null.
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  // Calls that use `database_`, and whether new ones must wait.
  mutable int64_t users_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reopening_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quern
