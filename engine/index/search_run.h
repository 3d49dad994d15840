#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/base/work_crew.h"
#include "engine/filter/row_set.h"
#include "engine/index/candidates.h"
#include "engine/index/device_search.h"
#include "engine/index/segment.h"
#include "engine/index/vector_codes.h"
#include "engine/index/vector_index.h"

namespace quern {

// Of an index, for all of its searches.
struct SearchRunOptions {
  Metric metric = Metric::kCosine;
  float target_recall = 0.95F;
  const VectorReader* reader = nullptr;  // May be empty: see ExactVectors.
  VectorCache* cache = nullptr;          // Null: there is none.
  const BinaryCoder* coder = nullptr;    // Null: binary codes are not used.
  WorkCrew* crew = nullptr;              // Null: the caller works alone.
  // Bytes of vectors that a search compares, by estimate, from which on the
  // crew is asked.
  int64_t min_crew_bytes = 0;
};

// One call of VectorIndex::Search(): what is done with each part is planned,
// divided into pieces that the crew does side by side, and merged exactly, so
// that the results are the same whoever did what. Not thread-safe.
class SearchRun {
 public:
  // `queries` have passed PrepareVectors(). All must outlive it.
  SearchRun(const SearchRunOptions& index, const RequestContext& context,
            absl::Span<const IndexPart> parts, const Matrix& queries,
            const VectorSearchOptions& options);

  // Only rows of these numbers.
  void Restrict(const RowSet& matching);

  // One list per query, as VectorIndex::Search() gives it; once.
  absl::StatusOr<std::vector<std::vector<ScoredId>>> Run();

  // What Run() did, in words.
  std::string Explain() const;

  // Why a device left a part to the processor; empty: none did.
  const std::string& device_trouble() const { return device_trouble_; }

 private:
  enum class Way { kNone, kScan, kList, kGraph, kLists };

  // How a part is searched, and what came of it.
  struct PartPlan {
    Way way = Way::kNone;  // kNone: nothing there, or a device did it.
    const OperatingPoint* point = nullptr;  // Of kGraph and kLists.
    int64_t wanted_rows = 0;                // About so many may be returned.
    int64_t effort = 0;     // Width of the beam, or lists to look into.
    int64_t depth = 0;      // Of kLists: rows whose codes are compared.
    int64_t scan_rows = 0;  // Of kGraph: comparing costs as much as so many.
    std::vector<uint32_t> rows;  // Of kList: those that match and live.
    int64_t widest = 0;          // The beam that one of the queries took.
    bool came_short = false;     // So that a query's rows were compared.
    std::string device;          // What a device did, in words.
  };

  // What one thread does at once: of a part, these rows (kScan; kList: places
  // in the list) for these queries.
  struct Piece {
    Way way = Way::kNone;
    uint32_t part = 0;
    size_t first_query = 0;
    size_t queries = 0;
    int64_t begin = 0;
    int64_t end = 0;
    // What came of it.
    int64_t widest = 0;
    std::vector<size_t> short_of = {};  // Queries that found too little.
  };

  SearchedPart Searched(uint32_t p) const;
  double WantedShare(const IndexPart& part) const;
  int64_t WidthFor(uint32_t effort) const;
  int64_t ProbesFor(const IvfPq& ivf, const OperatingPoint& point) const;

  bool UsesBinaryCodes(uint32_t p) const;

  absl::Status PlanPart(uint32_t p);
  void PlanScan(uint32_t p);
  void PlanGraph(uint32_t p, double share);
  void PlanLists(uint32_t p, double share);
  // No bound on an error may be exceeded.
  bool sure() const { return std::isinf(sigmas_); }
  std::vector<uint32_t> ListRows(const IndexPart& part) const;
  absl::StatusOr<bool> AskDevice(uint32_t p, double share);

  // Bytes that a piece compares, by estimate.
  double RowBytesOf(uint32_t p) const;
  double CostOf(const Piece& piece) const;
  void Divide(const Piece& whole, double piece_bytes,
              std::vector<Piece>* pieces) const;
  absl::Status DoAll(const std::vector<Piece>& wholes);
  absl::Status Do(Piece& piece, int worker);
  absl::Status WalkGraph(Piece& piece, absl::Span<Candidates> candidates) const;
  absl::Status ProbeLists(Piece& piece,
                          absl::Span<Candidates> candidates) const;
  void Note(const Piece& piece);
  absl::Span<Candidates> CandidatesOf(int worker);
  absl::StatusOr<std::vector<std::vector<ScoredId>>> TakeAll();

  const SearchRunOptions& index_;
  const RequestContext& context_;
  const absl::Span<const IndexPart> parts_;
  const Matrix& matrix_;
  const VectorSearchOptions& options_;
  const float sigmas_;  // That bounds on errors allow.
  int64_t live_rows_ = 0;
  int64_t k_ = 1;
  std::vector<EncodedQuery> queries_;
  std::optional<RowBits> matching_;
  int64_t matched_count_ = 0;
  std::vector<PartPlan> plans_;
  std::vector<Piece> short_;  // For a second turn.
  // One list of queries' candidates per worker of the crew; the caller's first.
  std::vector<std::vector<Candidates>> candidates_;
  std::string device_trouble_;
};

}  // namespace quern
