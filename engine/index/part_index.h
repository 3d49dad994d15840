#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/base/work_crew.h"
#include "engine/filter/field_index.h"
#include "engine/filter/filter.h"
#include "engine/index/part_chunk.h"
#include "engine/index/vector_index.h"

namespace quern {

struct PartIndexOptions {
  int64_t dimension = 0;                 // 1 to 4,096.
  std::vector<FieldDeclaration> fields;  // That filters may name.
  // Helps with searches of at least `min_crew_bytes` of rows; null: a search
  // has its caller's thread alone.
  std::shared_ptr<WorkCrew> crew;
  int64_t min_crew_bytes = int64_t{2} << 20;
  // Rows that lie together, and that a search compares between two looks at
  // its deadline; >= 1.
  int64_t chunk_rows = 4096;
};

// An item on its way into the index.
struct PartRows {
  absl::string_view id;
  // [parts x dimension], of length one or 0; without rows, an item whose parts
  // are not known.
  MatrixView rows;
  FieldValues fields;  // What filters see.
};

struct PartIndexQuery {
  int64_t k = 10;  // Items; >= 1. Fewer come when fewer match.
  // Only items that match; null: all.
  std::shared_ptr<const Filter> filter = nullptr;
  absl::Span<const int32_t> modalities = {};  // Only of these; empty: all.
};

// What a search met.
struct PartIndexStats {
  int64_t items = 0;          // That match.
  int64_t without_parts = 0;  // Of these: no search finds them.
  int64_t parts = 0;          // Of the others; all were compared.
};

// Items by the best of their parts: an item's score is the largest inner
// product that one of its rows has with the query. Every row is compared, as a
// byte a number, which keeps cosines to about 0.005. Lives in memory alone,
// derived from the store. Thread-safe; a search sees all or nothing of a write
// and waits for none.
//
// Rows lie in chunks that are appended to; what is replaced or removed is
// marked, and a full chunk that is half dead is copied to the end.
class PartIndex {
 public:
  explicit PartIndex(PartIndexOptions options);

  PartIndex(const PartIndex&) = delete;
  PartIndex& operator=(const PartIndex&) = delete;

  // Inserts or replaces; of equal ids the last one wins. Errors:
  // kInvalidArgument for rows of another dimension; kResourceExhausted, after
  // which the items before the one it came to are written, that one is not
  // there, and the others are as they were.
  absl::Status Upsert(absl::Span<const PartRows> items);

  // Changes what filters see of an item, if it is there. Errors:
  // kResourceExhausted, after which it is not.
  absl::Status SetFields(absl::string_view id, const FieldValues& fields);

  // Ids that are not there are ignored.
  void Remove(absl::Span<const std::string> ids);

  // The best items, equal scores in byte order of the ids. `query` is
  // [dimension], of length one. Errors: kInvalidArgument for another dimension
  // or k, and what context.Check() gives.
  absl::StatusOr<std::vector<ScoredId>> Search(const RequestContext& context,
                                               absl::Span<const float> query,
                                               const PartIndexQuery& options,
                                               PartIndexStats* stats) const;

  bool Contains(absl::string_view id) const;
  int64_t items() const;         // Those without parts, too.
  int64_t parts() const;         // Rows that a search may compare.
  int64_t memory_bytes() const;  // Roughly.

  // Why items may be missing, in a sentence without its end; empty: none is.
  std::string missing() const;
  void set_missing(std::string why);

 private:
  // A chunk as a search sees it.
  struct ChunkView {
    std::shared_ptr<const PartChunk> chunk;
    uint32_t entries = 0;
    int64_t rows = 0;
    int64_t dead_rows = 0;
    std::shared_ptr<const std::vector<bool>> dead;  // By entry; null: none is.

    bool IsDead(uint32_t entry) const {
      return dead != nullptr && entry < dead->size() && (*dead)[entry];
    }
  };
  struct Snapshot {
    std::vector<ChunkView> chunks;  // By their numbers, rising.
    int64_t items = 0;
    int64_t parts = 0;
    uint32_t next_slot = 0;
  };
  struct Draft;
  class Scan;

  // Where an item is.
  struct Place {
    uint32_t slot = 0;
    const PartChunk* chunk = nullptr;  // Of the snapshot; null: it has no rows.
    uint32_t entry = 0;
  };

  std::shared_ptr<const Snapshot> snapshot() const
      ABSL_LOCKS_EXCLUDED(snapshot_mutex_);
  // Puts an item in the place of the one of its id. `append` writes its rows to
  // a chunk and returns the entry.
  using Append = absl::FunctionRef<uint32_t(PartChunk&, uint32_t slot)>;
  absl::Status Put(absl::string_view id, const FieldValues& fields,
                   int64_t rows, Append append, Draft& draft)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  void Take(absl::string_view id, Draft& draft)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  // Writes rows to the last chunk of the draft, a new one where that is full;
  // returns where they are.
  absl::StatusOr<Place> Write(uint32_t slot, int64_t rows, Append append,
                              Draft& draft)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  // Copies what lives in full chunks that are half dead, and drops them.
  void Sweep(Draft& draft) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  void Publish(Draft draft) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_)
      ABSL_LOCKS_EXCLUDED(fields_mutex_, snapshot_mutex_);

  const PartIndexOptions options_;

  mutable absl::Mutex write_mutex_;  // Held over a change of the snapshot.
  absl::flat_hash_map<std::string, Place> places_ ABSL_GUARDED_BY(write_mutex_);
  // The last chunk, which is appended to; null: none.
  std::shared_ptr<PartChunk> active_ ABSL_GUARDED_BY(write_mutex_);
  uint64_t next_chunk_ ABSL_GUARDED_BY(write_mutex_) = 0;

  // Held while what filters see and the snapshot are read together.
  mutable absl::Mutex fields_mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  FieldIndex fields_ ABSL_GUARDED_BY(fields_mutex_);  // By slot.
  RowSet bare_ ABSL_GUARDED_BY(fields_mutex_);  // Slots of items without rows.

  mutable absl::Mutex snapshot_mutex_ ABSL_ACQUIRED_AFTER(fields_mutex_);
  std::shared_ptr<const Snapshot> snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
  std::string missing_ ABSL_GUARDED_BY(snapshot_mutex_);
};

}  // namespace quern
