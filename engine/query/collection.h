#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/base/work_crew.h"
#include "engine/filter/filter.h"
#include "engine/index/part_index.h"
#include "engine/index/vector_index.h"
#include "engine/query/collection_settings.h"
#include "engine/query/index_sync.h"
#include "engine/query/part_sync.h"
#include "engine/store/item_store.h"
#include "quern/v1/collections.pb.h"

namespace quern {

// Makes the parts of a collection; tests give fakes.
struct CollectionFactories {
  std::function<absl::StatusOr<std::unique_ptr<ItemStore>>(
      const std::string& path, const v1::Collection& record)>
      open_store;
  // Likewise, for reading only, in a folder that never changes. Writes are
  // refused with `reason`.
  std::function<absl::StatusOr<std::unique_ptr<ItemStore>>(
      const std::string& path, const v1::Collection& record,
      const std::string& reason)>
      open_read_only;
  // The index's files are in `directory`; `store` outlives the index.
  std::function<absl::StatusOr<std::unique_ptr<VectorIndex>>(
      const v1::Collection& record, const std::string& directory,
      ItemStore* store)>
      create_index;
  // Helps with searches of parts; null: they have their caller's thread alone.
  std::shared_ptr<WorkCrew> crew = nullptr;
};

Metric MetricOf(const v1::Collection& record);

// One collection: its record, its store (the truth), its index and, where the
// settings make parts searchable, the index of those (both derived), kept in
// step. Thread-safe.
class Collection {
 public:
  // Opens the store and the index in `directory` and gives the index what the
  // store has since it was saved.
  // Errors: those of the factories and of reading the store.
  static absl::StatusOr<std::unique_ptr<Collection>> Open(
      const std::string& directory, v1::Collection record,
      const CollectionFactories& factories);

  // Deletes the directory if Drop() was called.
  ~Collection();

  Collection(const Collection&) = delete;
  Collection& operator=(const Collection&) = delete;

  // As it was opened: no status, and not what settings() has since.
  const v1::Collection& record() const { return record_; }
  const std::string& name() const { return record_.name(); }
  int64_t dimension() const { return record_.dimension(); }
  Metric metric() const { return MetricOf(record_); }

  // The record with the settings and the status of this moment.
  v1::Collection Describe() const;

  std::shared_ptr<const CollectionSettings> settings() const;
  // From now on; what is stored already is read by them too. Where they make
  // parts searchable, or end that, makes or drops the index of parts. Not side
  // by side with itself.
  void set_settings(CollectionSettings settings);

  // Writes durably, then makes searchable: all items or, on error, none. Calls
  // that wait for one another are written together, with one sync. Their
  // embeddings are of dimension() and have passed CheckVector(). One result per
  // item; one with an error is left as it was. Errors: those of
  // ItemStore::Put(), kNotFound after Drop(), and what MustWait() knows.
  absl::StatusOr<std::vector<PutResult>> Upsert(absl::Span<const Item> items);

  // As ItemStore::Update(). Errors: its, and kNotFound after Drop().
  absl::StatusOr<Item> Update(const std::string& id,
                              const std::function<absl::Status(Item&)>& change);

  // Returns how many existed. Errors as for Upsert().
  absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids);

  const std::string& directory() const { return directory_; }
  // Deletes what matches `filter` (not null), step by step: items that are
  // written meanwhile may or may not be among them, one that does not match
  // when its turn comes never is. Returns how many are gone. Errors: those of
  // the context and of Delete(); the steps done stay done.
  absl::StatusOr<int64_t> DeleteMatching(const RequestContext& context,
                                         const Filter& filter);

  // One bounded step of taking what has expired out of the indexes, where it
  // would take the place of others among a search's hits; true when more is
  // left. Nothing is written. Errors: those of reading the store.
  absl::StatusOr<bool> HideExpired();
  // Likewise of removing it, also from the store. Errors as for Upsert().
  absl::StatusOr<bool> RemoveExpired();

  // Of a collection that is made to take another one's place (reindex.h): as
  // ItemStore::Import(), then searchable. How far the index has seen the log is
  // the caller's to say.
  absl::Status Import(absl::Span<const Item> items,
                      absl::Span<const std::string> removed, uint64_t sequence);

  // From now on Upsert() does nothing and returns an error of MustWait(), until
  // TakeUpserts() or ReplaceBy(); none is under way any more.
  void HoldUpserts();
  void TakeUpserts();
  static bool MustWait(const absl::Status& status);
  // Calls `resume` once upserts are taken, here or by Newest(): now, where they
  // are, or else at the end of the hold.
  void AwaitUpserts(std::function<void()> resume);

  // Lets `successor` take this one's place. With writers waiting, calls
  // `commit`, which makes it so for everybody else; on its error nothing has
  // changed. From then on this one refuses upserts by MustWait(), passes other
  // writes on, still answers reads, and goes with its last owner as after
  // Drop(). Errors: those of `commit`; kNotFound after Drop().
  absl::Status ReplaceBy(const std::shared_ptr<Collection>& successor,
                         const std::function<absl::Status()>& commit);
  // The one that has taken the place of `collection`, or of its successor, and
  // so on; `collection` itself where there is none.
  static std::shared_ptr<Collection> Newest(
      std::shared_ptr<Collection> collection);

  // As ItemStore::Scan(), for the items that match; a null filter takes all.
  // Errors: its, those of the context, which is asked before each item, and
  // kDataLoss for a payload that cannot be read.
  absl::Status Scan(const RequestContext& context, absl::string_view after_id,
                    ItemParts parts, const Filter* filter,
                    const std::function<bool(Item)>& visit) const;

  const ItemStore& store() const { return *store_; }
  ItemStore& mutable_store() { return *store_; }
  const VectorIndex& index() const { return *index_; }
  // What filters over the index may name.
  const std::vector<FieldDeclaration>& index_fields() const {
    return sync_->fields();
  }
  VectorIndex& mutable_index() { return *index_; }
  // Null where the settings do not make parts searchable.
  std::shared_ptr<const PartIndex> part_index() const;

  // Grows with every change that a search can see, over restarts too: it is the
  // store's sequence number, or more where settings changed what is found.
  int64_t index_version() const { return index_version_; }

  // Refuses writes from now on; the last owner deletes the files. Searches
  // under way finish.
  void Drop();
  bool dropped() const { return dropped_; }

 private:
  Collection(std::string directory, v1::Collection record,
             CollectionSettings settings, std::unique_ptr<ItemStore> store,
             std::unique_ptr<VectorIndex> index,
             std::shared_ptr<WorkCrew> crew);

  // Makes the index of parts, or drops it, as the settings say.
  void FollowPartsSettings();

  // An Upsert() that waits for its turn, or for what another thread does of it.
  struct WaitingUpsert {
    absl::Span<const Item> items;
    std::optional<absl::StatusOr<std::vector<PutResult>>> results = {};
  };

  // Writes some that wait, the first of them at least.
  void UpsertWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<std::vector<PutResult>> UpsertHeld(
      absl::Span<const Item> items) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  // Tell the indexes what the store has taken, or has no more.
  absl::Status AddHeld(absl::Span<const Item* const> items)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status RemoveHeld(absl::Span<const std::string> ids)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  // Ends what `sync_->BeginWrite()` began. Errors: those of reading the store,
  // and of memory; what was written stays so.
  absl::Status EndWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  // Calls `write(*this)` with the write mutex held; on the successor where
  // there is one.
  template <typename Write>
  auto Locked(const Write& write) -> decltype(write(*this));

  std::shared_ptr<Collection> successor() const;

  // A search can see a change now.
  void CountChange() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  // Delete(), by a caller that holds the mutex.
  absl::StatusOr<int64_t> DeleteHeld(absl::Span<const std::string> ids)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);

  const std::string directory_;
  const v1::Collection record_;
  std::unique_ptr<ItemStore> store_;    // Set once; closed before the files go.
  std::unique_ptr<VectorIndex> index_;  // Likewise; it reads the store.

  const std::shared_ptr<WorkCrew> crew_;

  // Held over a write of the store and of the indexes, so that all see writes
  // in the same order.
  mutable absl::Mutex write_mutex_;
  std::atomic<bool> dropped_ = false;  // Set with the mutex held.
  std::unique_ptr<IndexSync> sync_;    // Set once.
  std::unique_ptr<PartSync> part_sync_ ABSL_GUARDED_BY(write_mutex_);
  // ItemStore::ListExpired()'s: what comes before is in no index.
  std::string hidden_ ABSL_GUARDED_BY(write_mutex_);

  // What `results` of a waiting one become is guarded by the write mutex.
  mutable absl::Mutex upserts_mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  std::deque<WaitingUpsert*> upserts_ ABSL_GUARDED_BY(upserts_mutex_);

  mutable absl::Mutex settings_mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  std::shared_ptr<const CollectionSettings> settings_
      ABSL_GUARDED_BY(settings_mutex_);
  // That of `part_sync_`, for searches.
  std::shared_ptr<const PartIndex> part_index_ ABSL_GUARDED_BY(settings_mutex_);

  // Set with the write mutex held, too.
  mutable absl::Mutex place_mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  std::shared_ptr<Collection> successor_ ABSL_GUARDED_BY(place_mutex_);
  bool holds_upserts_ ABSL_GUARDED_BY(place_mutex_) = false;
  std::vector<std::function<void()>> waiting_ ABSL_GUARDED_BY(place_mutex_);

  // Read without the mutex: a search must not wait for a write's fsync.
  std::atomic<int64_t> index_version_ = 0;
};

// Whether `vector` can be stored in, or compared with, a collection of this
// dimension and metric. Errors: kInvalidArgument (no field path) for a wrong
// size, and those of CheckedNorm().
absl::Status CheckVector(absl::Span<const float> vector, int64_t dimension,
                         Metric metric);

}  // namespace quern
