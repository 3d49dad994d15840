#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/filter/field_values.h"
#include "engine/filter/filter.h"

namespace quern {

enum class Metric {
  kCosine,      // Vectors are normalised on the way in; scores in [-1, 1].
  kDotProduct,  // Scores as they come.
};

enum class IndexKind {
  kAuto,   // By size and target recall.
  kExact,  // Every vector is compared.
  kHnsw,   // A navigable small-world graph (Malkov and Yashunin 2018).
  kIvfPq,  // Inverted lists with 4-bit product codes.
};

struct ScoredId {
  std::string id;
  float score = 0;  // Higher is better.
};

// What a query was made of.
enum class QuerySource {
  kEmbedding,  // The caller's own vector.
  kText,       // Text, perhaps with something else.
  kMedia,      // Pictures and videos alone.
};
inline constexpr size_t kQuerySources = 3;

struct VectorSearchOptions {
  int64_t k = 10;  // Results per query; >= 1. Fewer come when fewer exist.
  // Recall aimed at, in (0, 1]; null: the index's own.
  std::optional<float> recall = std::nullopt;
  bool exact = false;  // Compare with every vector.
  // Only items that match; null: all.
  std::shared_ptr<const Filter> filter = nullptr;
  std::vector<int32_t> modalities = {};  // Only of these; empty: all.
  bool explain = false;                  // SearchStats::plan is wanted.
  // The index remembers some queries of each to calibrate itself by. Null:
  // stored vectors, which it knows.
  std::optional<QuerySource> source = QuerySource::kEmbedding;
};

// What a search did.
struct SearchStats {
  int32_t shards_asked = 0;
  int32_t shards_answered = 0;  // Fewer: what they hold is not complete now.
  std::vector<std::string> degraded_reasons;  // A sentence each.
  std::string plan;                           // In words.
};

// How a shard of an index is doing.
struct ShardInfo {
  int64_t item_count = 0;
  IndexKind kind = IndexKind::kExact;
  // Recall@10 on queries that calibration did not see.
  std::optional<float> measured_recall = std::nullopt;
  // Of its largest segment: beam or probes for the target, rows compared after
  // lists, and queries of its calibration; 0 where every vector is compared.
  uint32_t effort = 0;
  uint32_t depth = 0;
  uint32_t stored_queries = 0;
  uint32_t real_queries = 0;
  std::string device = "cpu";
  bool available = true;
  std::string message;  // Why not, or what to know.
};

// Nearest neighbours by inner product over item ids. Derived from the store: it
// may be dropped and built again at any time. Thread-safe; a search sees all or
// nothing of an Upsert() or Remove().
class VectorIndex {
 public:
  virtual ~VectorIndex() = default;

  virtual int64_t dimension() const = 0;
  virtual int64_t size() const = 0;  // Ids that a search can return.

  // Inserts or replaces; `vectors` is ids.size() x dimension, finite; `fields`
  // has what filters see of each, or is empty. Of equal ids the last one wins.
  // Errors: kInvalidArgument for a wrong shape, kResourceExhausted.
  virtual absl::Status Upsert(absl::Span<const std::string> ids,
                              MatrixView vectors,
                              absl::Span<const FieldValues> fields) = 0;
  absl::Status Upsert(absl::Span<const std::string> ids, MatrixView vectors) {
    return Upsert(ids, vectors, {});
  }

  // Ids that are not there are ignored.
  virtual absl::Status Remove(absl::Span<const std::string> ids) = 0;

  // One list per query row, best first; equal scores in byte order of the ids.
  // `stats` is overwritten.
  // Errors: kInvalidArgument for a wrong shape, k or recall, and what
  // context.Check() gives: a cancelled search stops early.
  virtual absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options, SearchStats* stats) const = 0;
  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options) const {
    SearchStats stats;
    return Search(context, queries, options, &stats);
  }

  // Resident bytes, roughly.
  virtual int64_t memory_bytes() const = 0;

  // Bytes of its own files.
  virtual int64_t disk_bytes() const { return 0; }

  // One at least.
  virtual std::vector<ShardInfo> shards() const = 0;

  // The store's sequence number up to which this index has seen every change;
  // 0: none.
  virtual uint64_t applied_sequence() const { return 0; }
  // Says that all changes up to `sequence` have been given.
  virtual void MarkApplied(uint64_t /*sequence*/) {}

  // Whether ids may lack that the store has, because files were damaged or
  // MarkIncomplete() said so. They are then given again by Upsert(), and
  // MarkComplete() ends it.
  virtual bool incomplete() const { return false; }
  virtual void MarkIncomplete(const std::string& /*why*/) {}
  virtual void MarkComplete() {}
  // More vectors wait in memory for their best form than the index may hold:
  // writers are to wait. Never for ever.
  virtual bool is_full() const { return false; }
  // Whether a search can return `id`.
  virtual bool Contains(const std::string& id) const = 0;

  // Hard-links the index's files, as they were saved last, into a new folder,
  // or copies them where that cannot be done; an index without files makes an
  // empty one. Then calls `then`, before anything is saved again: the store
  // keeps the changes that these files lack until a later save, so that a copy
  // of it made by `then` can be opened beside them without making them again.
  // Errors: also those of `then` and of the context.
  virtual absl::Status LinkFiles(
      const RequestContext& context, const std::string& directory,
      const std::function<absl::Status()>& then) const = 0;

  // Puts everything into its best form now; `progress` gets numbers in [0, 1].
  // Blocks the caller, not searches or writes. Errors: kResourceExhausted, and
  // what context.Check() gives: it is asked all along, and what is not in its
  // best form by then stays as it was.
  virtual absl::Status Optimize(
      const RequestContext& /*context*/,
      const std::function<void(float)>& /*progress*/) {
    return absl::OkStatus();
  }
};

}  // namespace quern
