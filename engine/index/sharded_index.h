#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/thread_pool.h"
#include "engine/base/work_crew.h"
#include "engine/filter/field_index.h"
#include "engine/index/candidates.h"
#include "engine/index/delta.h"
#include "engine/index/device_pool.h"
#include "engine/index/index_files.h"
#include "engine/index/query_sample.h"
#include "engine/index/search_run.h"
#include "engine/index/segment_builder.h"
#include "engine/index/vector_index.h"

namespace quern {

struct ShardedIndexOptions {
  int64_t dimension = 0;  // 1 to 4,096.
  Metric metric = Metric::kCosine;
  IndexKind kind = IndexKind::kAuto;
  VectorStorage storage = VectorStorage::kFp32;
  float target_recall = 0.95F;  // In (0, 1]; 1: compare with every vector.
  int32_t shards = 1;           // 1 to 64.
  std::vector<FieldDeclaration> fields;  // That filters may name.

  // Where its files are; empty: it has none. Made when it is not there.
  std::string directory;
  // The files are somebody else's: nothing is made, written or removed, and
  // nothing is sealed.
  bool read_only = false;
  // Sequence numbers of the store that files may have; others are foreign, and
  // are made again.
  uint64_t oldest_sequence = 0;
  uint64_t newest_sequence = ~uint64_t{0};
  // Each write of an item takes one. Fewer are for tests.
  uint32_t max_row_numbers = 0xFFFFFFFF;
  // Gives exact vectors for the short lists of compressed segments; null:
  // scores are those of the codes.
  VectorReader reader;
  // Keeps some of them; may be shared. Null: each is read anew.
  std::shared_ptr<VectorCache> cache;
  // Told the sequence number that the files have, after each save.
  std::function<void(uint64_t)> saved;

  // Search sealed segments, as far as they have room; null: the processor does.
  std::shared_ptr<const DevicePool> devices;

  // Helps with searches of at least `min_crew_bytes` of vectors to compare,
  // some tenths of a millisecond of work; null: a search has its caller's
  // thread alone.
  std::shared_ptr<WorkCrew> crew;
  int64_t min_crew_bytes = int64_t{2} << 20;

  // Seals and merges; its threads want a low priority. Null: only Optimize()
  // does.
  std::shared_ptr<ThreadPool> background;
  int64_t seal_rows = 16'384;     // Rows of all deltas that are then sealed.
  int64_t min_ann_rows = 20'000;  // See SegmentOptions.
  int build_threads = 1;          // That build one graph,
  int optimize_threads = 1;       // and in Optimize().
  // Of vectors in deltas, as FP32: beyond it, and beyond four times
  // `seal_rows`, the index is_full() while somebody is sealing.
  int64_t unsealed_bytes = std::numeric_limits<int64_t>::max();
};

// Nearest neighbours over shards by hash of the id. A shard is a list of
// immutable segments and small mutable deltas, with a bit for each row that is
// dead. All of it is one snapshot behind a pointer: a search takes the pointer
// and works on what it sees, a write makes a new one, and so does the end of a
// merge; nobody waits for longer than the swap.
//
// A delta that is full is frozen and, with smaller segments, becomes one new
// segment (segment_builder.h) in the background: sizes grow by a factor, so
// that few segments are searched and no row is built into many of them. After
// each merge the files are saved: segments, the field index, and last, at once,
// the manifest with the store's sequence number up to which all is in them.
// What came later is read from the store's change log at the next open.
//
// Scores are inner products in FP32 of the vectors themselves: where a segment
// keeps codes, they only choose the short list. Thread-safe.
class ShardedIndex final : public VectorIndex {
 public:
  // Loads the files, if there are any. Those that are damaged, foreign or too
  // old are left out: the index is then incomplete().
  // Errors: kInvalidArgument for an option; those of the folder.
  static absl::StatusOr<std::unique_ptr<ShardedIndex>> Create(
      ShardedIndexOptions options);

  // Waits for the background's present step.
  ~ShardedIndex() override;

  using VectorIndex::Search;
  using VectorIndex::Upsert;

  int64_t dimension() const override { return options_.dimension; }
  int64_t size() const override;
  absl::Status Upsert(absl::Span<const std::string> ids, MatrixView vectors,
                      absl::Span<const FieldValues> fields) override;
  absl::Status Remove(absl::Span<const std::string> ids) override;
  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options, SearchStats* stats) const override;
  int64_t memory_bytes() const override;
  int64_t disk_bytes() const override;
  std::vector<ShardInfo> shards() const override;
  uint64_t applied_sequence() const override;
  void MarkApplied(uint64_t sequence) override;
  bool incomplete() const override;
  void MarkIncomplete(const std::string& why) override;
  void MarkComplete() override;
  bool is_full() const override;
  bool Contains(const std::string& id) const override;
  absl::Status LinkFiles(
      const RequestContext& context, const std::string& directory,
      const std::function<absl::Status()>& then) const override;
  absl::Status Optimize(const RequestContext& context,
                        const std::function<void(float)>& progress) override;

 private:
  struct ShardState {
    bool complete = true;
    std::string message;
  };

  // What a search sees.
  struct Snapshot {
    std::vector<IndexPart> parts;
    std::vector<uint32_t> shard_of;  // One per part.
    std::vector<IndexFile> file_of;  // Of segments; id 0: none.
    std::vector<ShardState> shards;
    int64_t live_rows = 0;
  };
  class Edit;

  // Lets a task of the background find out that the index is gone.
  struct Tether {
    absl::Mutex mutex;
    ShardedIndex* index ABSL_GUARDED_BY(mutex) = nullptr;
  };

  explicit ShardedIndex(ShardedIndexOptions options);

  uint32_t ShardOf(absl::string_view id) const;
  std::shared_ptr<const Snapshot> snapshot() const
      ABSL_LOCKS_EXCLUDED(snapshot_mutex_);
  void Publish(std::shared_ptr<const Snapshot> next)
      ABSL_LOCKS_EXCLUDED(snapshot_mutex_);
  absl::Status CheckSearch(MatrixView queries,
                           const VectorSearchOptions& options) const;
  // What a search of `now` is to say of it; `device_trouble`: why a device did
  // not do its part, or empty.
  void Describe(const Snapshot& now, std::string device_trouble,
                SearchStats* stats) const;
  // Why devices have not got what is theirs; empty: they have.
  std::string DeviceTrouble(const Snapshot& now) const;

  absl::Status Load();
  void LoadSegments(const IndexManifest& manifest, Snapshot* loaded);
  absl::StatusOr<std::shared_ptr<const Segment>> LoadSegment(
      const IndexManifest& manifest, const IndexManifest::Segment& entry) const;

  static int64_t UnsealedRows(const Snapshot& now);
  bool NeedsWork(const Snapshot& snapshot) const;
  void ScheduleWork();
  absl::Status MaintainInBackground() ABSL_LOCKS_EXCLUDED(work_mutex_);
  // Asked now and then; an error ends the work.
  using StopCheck = std::function<absl::Status()>;
  absl::Status Maintain(bool everything, const StopCheck& stop,
                        const std::function<void(float)>& progress)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  // Ends a shard's delta: what is written from now on goes to a new one.
  // Returns the snapshot of that moment, whose deltas of the shard never change
  // again.
  std::shared_ptr<const Snapshot> Freeze(uint32_t shard)
      ABSL_LOCKS_EXCLUDED(write_mutex_);
  // Parts of a shard that are to become one segment; none: nothing to do.
  std::vector<size_t> ChooseMerge(const Snapshot& snapshot, uint32_t shard,
                                  bool everything) const;
  bool LacksRealQueries(const Segment& segment) const;
  absl::Status Merge(const std::vector<size_t>& chosen,
                     const Snapshot& snapshot, uint32_t shard, int threads,
                     const StopCheck& check)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  void Swap(const Snapshot& before, const std::vector<size_t>& chosen,
            uint32_t shard, const std::shared_ptr<const Segment>& segment,
            IndexFile file);
  // Puts segments on devices that have room for them now.
  void PlaceSegments() ABSL_LOCKS_EXCLUDED(write_mutex_);
  absl::Status Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  absl::Status SaveQueries() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  void LoadQueries(const IndexFile& file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  absl::Status CheckStopping() const;

  const ShardedIndexOptions options_;
  const std::shared_ptr<const BinaryCoder> coder_;
  const SearchRunOptions search_options_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> scheduled_ = false;
  std::atomic<int> optimizing_ = 0;  // Calls of Optimize().
  std::atomic<bool> changed_since_save_ = false;
  std::atomic<bool> lacks_save_ = false;  // That must not wait for more.

  // Held by whoever seals, merges or saves.
  mutable absl::Mutex work_mutex_;
  uint64_t generation_ ABSL_GUARDED_BY(work_mutex_) = 0;
  uint64_t next_file_ ABSL_GUARDED_BY(work_mutex_) = 1;

  // Held while the manifest is replaced and what it does not name is removed,
  // which takes less than a merge.
  mutable absl::Mutex files_mutex_ ABSL_ACQUIRED_AFTER(work_mutex_);

  // Held over a change of the snapshot. Before `fields_mutex_`.
  mutable absl::Mutex write_mutex_ ABSL_ACQUIRED_AFTER(work_mutex_);
  // Per shard; null: none. The last part of its delta.
  std::vector<std::shared_ptr<Delta>> active_ ABSL_GUARDED_BY(write_mutex_);
  uint64_t applied_sequence_ ABSL_GUARDED_BY(write_mutex_) = 0;
  // Row numbers are below, also those of writes that failed halfway: the field
  // index may have them.
  uint32_t next_row_ ABSL_GUARDED_BY(write_mutex_) = 0;

  // Held while the field index and the snapshot are read together.
  mutable absl::Mutex fields_mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  FieldIndex fields_ ABSL_GUARDED_BY(fields_mutex_);

  mutable absl::Mutex snapshot_mutex_ ABSL_ACQUIRED_AFTER(fields_mutex_);
  std::shared_ptr<const Snapshot> snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);

  mutable QuerySample queries_;
  // Their file, and what was in it.
  IndexFile queries_file_ ABSL_GUARDED_BY(work_mutex_);
  uint64_t saved_queries_ ABSL_GUARDED_BY(work_mutex_) = 0;

  const std::shared_ptr<Tether> tether_ = std::make_shared<Tether>();
};

}  // namespace quern
