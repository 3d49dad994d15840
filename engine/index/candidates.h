#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/filter/row_set.h"
#include "engine/index/delta.h"
#include "engine/index/error_bound.h"
#include "engine/index/segment.h"
#include "engine/index/vector_cache.h"
#include "engine/index/vector_codes.h"
#include "engine/index/vector_index.h"

// The search of one query over parts of an index: collect what may be among the
// best, knowing how far a code's score may be off, then compare those few with
// their exact vectors.

namespace quern {

// Calls `visit(i, vector)` for each id that exists, with its vector as it was
// given to Upsert(); visits may come in any order.
using VectorReader = std::function<absl::Status(
    absl::Span<const std::string> ids,
    const std::function<void(size_t, absl::Span<const float>)>& visit)>;

// Where the vectors themselves are.
struct ExactVectors {
  const VectorReader& reader;    // Empty: nowhere.
  VectorCache* cache = nullptr;  // Asked before; null: there is none.
};

class DeviceSegment;

// Rows of one delta or one segment, as a search sees them.
struct IndexPart {
  std::shared_ptr<const Delta> delta;  // This or `segment`.
  std::shared_ptr<const Segment> segment;
  std::shared_ptr<const DeviceSegment> device;  // Has `segment`, too; or null.
  int64_t rows = 0;
  std::shared_ptr<const std::vector<uint64_t>>
      dead;  // A bit a row; null: none.
  int64_t dead_rows = 0;

  int64_t live_rows() const { return rows - dead_rows; }
  bool IsDead(int64_t row) const {
    return dead != nullptr && ((*dead)[row / 64] >> (row % 64) & 1) != 0;
  }
  absl::string_view id(int64_t row) const {
    return segment != nullptr ? segment->id(row) : delta->id(row);
  }
  bool has_binary_codes() const {
    return delta != nullptr || segment->binary_rows().blocks != nullptr;
  }
  uint32_t row_number(int64_t row) const {
    return segment != nullptr ? segment->row_numbers()[row]
                              : delta->row_number(row);
  }
};

// A part as one search sees it.
struct SearchedPart {
  const IndexPart& part;
  uint32_t number = 0;  // Among the index's parts.
  Metric metric = Metric::kCosine;
  // Numbers of the rows that match; null: all do.
  const RowBits* matching = nullptr;
  // That bounds on errors allow; infinite: they are never exceeded.
  float sigmas = ErrorSigmas(1);

  // Whether a search may return a row.
  bool IsWanted(int64_t row) const {
    if (part.IsDead(row)) return false;
    return matching == nullptr || matching->Contains(part.row_number(row));
  }
  bool wants_all() const { return matching == nullptr && part.dead == nullptr; }
};

// What may be among the k best of one query. Not thread-safe.
class Candidates {
 public:
  // `parts` must outlive it.
  Candidates(int64_t k, absl::Span<const IndexPart> parts)
      : k_(k), parts_(parts) {}

  // A row whose true score lies within `error` of `score`.
  void Add(float score, float error, uint32_t part, uint32_t row);

  // Adds what another one of the same k, parts and query holds. What Take()
  // gives does not depend on how the rows were spread.
  void Merge(const Candidates& other);

  // Takes the rows of a part out again.
  void Forget(uint32_t part);

  // No row whose score cannot reach it is among the best.
  float threshold() const { return threshold_; }

  // Rows added and not ruled out.
  size_t size() const { return entries_.size(); }

  // The best, in order. Rows with an error get the score of the vector itself,
  // where there is one, as long as it may change who is among the best. The
  // object is spent.
  //
  // Unless `sigmas` (see SearchedPart) is infinite, rows whose codes, scales
  // and norms of errors are equal to the bit count as one vector once k of
  // those with the least ids turned out to have the same score: of many copies
  // some 2 k are read. Otherwise, and of vectors that nearly are copies, all
  // that the errors let be among the best are read.
  absl::StatusOr<std::vector<ScoredId>> Take(const EncodedQuery& query,
                                             Metric metric,
                                             const ExactVectors& vectors,
                                             float sigmas);

 private:
  struct Entry {
    float score;
    float error;
    uint32_t part;
    uint32_t row;
    float highest() const { return score + error; }
  };

  void Prune();
  void RaiseThreshold(float lowest);
  // The row that an entry stands for.
  VectorCache::Key KeyOf(const Entry& entry) const {
    return {parts_[entry.part].segment->serial(), entry.row};
  }
  bool SetExact(const EncodedQuery& query, Metric metric,
                absl::Span<const float> values, Entry& entry) const;
  void FindExact(const EncodedQuery& query, Metric metric, VectorCache& cache,
                 std::vector<size_t>& wanted);
  absl::Status ReadExact(const EncodedQuery& query, Metric metric,
                         const ExactVectors& vectors,
                         absl::Span<const size_t> wanted);
  absl::Status MakeExact(const EncodedQuery& query, Metric metric,
                         const ExactVectors& vectors, size_t begin, size_t end);
  bool AreTwins(const Entry& a, const Entry& b) const;
  // Moves the twins of the entry at `begin` to it, those of the `count` least
  // ids first, and returns where they end. Entries are in order of highest().
  size_t GatherTwins(size_t begin, size_t count);
  // Whether k of these entries have one score.
  bool ShareScore(size_t begin, size_t end) const;

  const int64_t k_;
  const absl::Span<const IndexPart> parts_;
  std::vector<Entry> entries_;
  size_t prune_at_ = 0;
  // The k best of the lowest scores that the rows may have; worst on top.
  std::vector<float> lowest_;
  float threshold_ = -std::numeric_limits<float>::infinity();
};

// Rows that lie one after the other and are compared with all queries before
// the next ones: they stay in the processor's cache for the later queries.
inline constexpr int64_t kTileRows = 128;

// Compares the wanted ones of rows `begin` to `end` - 1 with all queries, and
// adds them to the candidates of each; `begin` is a multiple of kTileRows. If
// the queries have their binary forms, only those are compared whose binary
// codes let them be among the best, unless no error may be exceeded.
absl::Status ScanPart(const RequestContext& context,
                      const SearchedPart& searched,
                      absl::Span<const EncodedQuery> queries, int64_t begin,
                      int64_t end, absl::Span<Candidates> candidates);

// Compares the rows of a segment given with one query.
absl::Status ScanRows(const RequestContext& context,
                      const SearchedPart& searched, const EncodedQuery& query,
                      absl::Span<const uint32_t> rows, Candidates& candidates);

// The wanted ones of what a beam of `width` rows finds in a segment's graph.
absl::Status SearchGraph(const RequestContext& context,
                         const SearchedPart& searched,
                         const EncodedQuery& query, int64_t width,
                         std::vector<ScoredRow>* found);

// Adds rows that SearchGraph() found.
void AddFound(const SearchedPart& searched, const EncodedQuery& query,
              absl::Span<const ScoredRow> found, Candidates& candidates);

// The wanted ones of `rows`.
std::vector<uint32_t> WantedRows(const SearchedPart& searched,
                                 absl::Span<const uint32_t> rows);

}  // namespace quern
