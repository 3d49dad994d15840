#include "engine/index/faiss_index.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "faiss/utils/distances.h"

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/index/check_vector.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "FAISS";

constexpr int64_t kBlockRows = 4096;
// Rows that are compared with all queries before the next rows: they stay in
// the processor's cache for the second and later queries.
constexpr int64_t kTileRows = 128;
static_assert(kBlockRows % kTileRows == 0, "a tile lies in one block");
// Comparisons between two looks at the deadline; a few milliseconds.
constexpr int64_t kComparisonsPerCheck = 65'536;

// A hash map's node with a short id inside its string, its slot, and the row's
// pointer to it.
constexpr int64_t kBytesPerId =
    sizeof(std::pair<const std::string, int64_t>) + 4 * sizeof(void*);

// A copy of `vectors`, [rows x columns], checked, and normalised for kCosine.
// `name` is the field that the rows are called after.
absl::StatusOr<Matrix> Prepare(MatrixView vectors, Metric metric,
                               absl::string_view name) {
  Matrix prepared(vectors.rows, vectors.columns);
  for (int64_t i = 0; i < vectors.rows; ++i) {
    const absl::StatusOr<double> norm = CheckedNorm(vectors.row(i), metric);
    if (!norm.ok()) {
      return InvalidField(absl::StrCat(name, "[", i, "]"),
                          norm.status().message());
    }
    const double scale = metric == Metric::kCosine ? 1 / *norm : 1;
    std::transform(
        vectors.row(i).begin(), vectors.row(i).end(), prepared.row(i).begin(),
        [scale](float value) { return static_cast<float>(value * scale); });
  }
  return prepared;
}

absl::Status CheckColumns(MatrixView matrix, int64_t dimension,
                          absl::string_view name) {
  if (matrix.rows == 0 || matrix.columns == dimension) return absl::OkStatus();
  return InvalidField(name,
                      absl::StrCat("has rows of ", matrix.columns,
                                   " values; the dimension is ", dimension));
}

// Rounding takes the cosine of equal directions a little over 1.
void Clamp(absl::Span<float> cosines) {
  for (float& cosine : cosines) cosine = std::clamp(cosine, -1.0F, 1.0F);
}

}  // namespace

// A heap of at most `k` rows with the worst on top. The order is total: a
// higher score first, then the smaller id, so that which of equal scores are
// cut off does not depend on the order of the rows.
class FaissIndex::Best {
 public:
  // `ids` has the id of each row and must outlive the object.
  Best(int64_t k, const std::vector<const std::string*>& ids)
      : k_(static_cast<size_t>(k)), ids_(ids) {
    entries_.reserve(k_);
  }

  // Takes rows first_row, first_row + 1, ... with the scores given.
  void Add(int64_t first_row, absl::Span<const float> scores) {
    for (size_t i = 0; i < scores.size(); ++i) {
      const Entry entry{scores[i], first_row + static_cast<int64_t>(i)};
      if (entries_.size() < k_) {
        entries_.push_back(entry);
        std::push_heap(entries_.begin(), entries_.end(), better());
      } else if (entry.score >= entries_.front().score &&
                 better()(entry, entries_.front())) {
        std::pop_heap(entries_.begin(), entries_.end(), better());
        entries_.back() = entry;
        std::push_heap(entries_.begin(), entries_.end(), better());
      }
    }
  }

  // Best first. The object is spent.
  std::vector<ScoredId> Take() {
    std::sort_heap(entries_.begin(), entries_.end(), better());
    std::vector<ScoredId> result;
    result.reserve(entries_.size());
    for (const Entry& entry : entries_) {
      result.push_back({.id = *ids_[entry.row], .score = entry.score});
    }
    return result;
  }

 private:
  struct Entry {
    float score;
    int64_t row;
  };

  struct Better {
    const std::vector<const std::string*>& ids;

    bool operator()(const Entry& a, const Entry& b) const {
      if (a.score != b.score) return a.score > b.score;
      return *ids[a.row] < *ids[b.row];
    }
  };

  Better better() const { return {ids_}; }

  const size_t k_;
  const std::vector<const std::string*>& ids_;
  std::vector<Entry> entries_;
};

absl::StatusOr<std::unique_ptr<FaissIndex>> FaissIndex::Create(
    const FaissIndexOptions& options) {
  if (options.dimension < 1) {
    return InvalidField("dimension", absl::StrCat("is ", options.dimension,
                                                  "; it must be at least 1"));
  }
  return std::unique_ptr<FaissIndex>(new FaissIndex(options));
}

int64_t FaissIndex::size() const {
  absl::ReaderMutexLock lock(&mutex_);
  return rows();
}

float* FaissIndex::RowData(int64_t row) const {
  return blocks_[row / kBlockRows].get() +
         (row % kBlockRows) * options_.dimension;
}

void FaissIndex::Reserve(int64_t more) {
  const int64_t total = rows() + more;
  const auto blocks =
      static_cast<size_t>((total + kBlockRows - 1) / kBlockRows);
  while (blocks_.size() < blocks) {
    blocks_.push_back(std::make_unique_for_overwrite<float[]>(
        kBlockRows * options_.dimension));
  }
  row_of_.reserve(total);
  // Doubling: reserve() alone would copy all for each small batch.
  if (ids_.capacity() < static_cast<size_t>(total)) {
    ids_.reserve(std::max<size_t>(total, 2 * ids_.capacity()));
  }
}

int64_t FaissIndex::FindOrAddRow(const std::string& id) {
  const auto [entry, added] = row_of_.try_emplace(id, rows());
  if (added) ids_.push_back(&entry->first);
  return entry->second;
}

void FaissIndex::RemoveRow(const std::string& id) {
  const auto entry = row_of_.find(id);
  if (entry == row_of_.end()) return;
  const int64_t row = entry->second;
  const int64_t last = rows() - 1;
  if (row != last) {
    std::copy_n(RowData(last), options_.dimension, RowData(row));
    ids_[row] = ids_[last];
    row_of_[*ids_[row]] = row;
  }
  ids_.pop_back();
  row_of_.erase(entry);
}

absl::Status FaissIndex::Upsert(absl::Span<const std::string> ids,
                                MatrixView vectors) {
  if (vectors.rows != static_cast<int64_t>(ids.size())) {
    return InvalidField(
        "vectors",
        absl::StrCat("has ", vectors.rows, " rows for ", ids.size(), " ids"));
  }
  QUERN_RETURN_IF_ERROR(CheckColumns(vectors, dimension(), "vectors"));
  return Guard(kLibrary, [&]() -> absl::Status {
    QUERN_ASSIGN_OR_RETURN(Matrix prepared,
                           Prepare(vectors, options_.metric, "vectors"));
    absl::MutexLock lock(&mutex_);
    Reserve(prepared.rows());
    for (int64_t i = 0; i < prepared.rows(); ++i) {
      const int64_t row = FindOrAddRow(ids[i]);
      std::copy_n(prepared.row(i).data(), dimension(), RowData(row));
    }
    return absl::OkStatus();
  });
}

absl::Status FaissIndex::Remove(absl::Span<const std::string> ids) {
  absl::MutexLock lock(&mutex_);
  for (const std::string& id : ids) RemoveRow(id);
  blocks_.resize((rows() + kBlockRows - 1) / kBlockRows);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<ScoredId>>> FaissIndex::Search(
    const RequestContext& context, MatrixView queries,
    const VectorSearchOptions& options) const {
  if (options.k < 1) {
    return InvalidField(
        "k", absl::StrCat("is ", options.k, "; it must be at least 1"));
  }
  QUERN_RETURN_IF_ERROR(CheckColumns(queries, dimension(), "queries"));
  using Results = std::vector<std::vector<ScoredId>>;
  return Guard(kLibrary, [&]() -> absl::StatusOr<Results> {
    QUERN_ASSIGN_OR_RETURN(Matrix prepared,
                           Prepare(queries, options_.metric, "queries"));
    absl::ReaderMutexLock lock(&mutex_);
    std::vector<Best> best;
    best.reserve(prepared.rows());
    for (int64_t i = 0; i < prepared.rows(); ++i) {
      best.emplace_back(std::min(options.k, rows()), ids_);
    }
    QUERN_RETURN_IF_ERROR(Compare(context, prepared.view(), best));
    Results results;
    results.reserve(best.size());
    for (Best& of_query : best) results.push_back(of_query.Take());
    return results;
  });
}

absl::Status FaissIndex::Compare(const RequestContext& context,
                                 MatrixView queries,
                                 std::vector<Best>& best) const {
  QUERN_RETURN_IF_ERROR(context.Check("search"));
  std::array<float, kTileRows> scores{};
  int64_t comparisons = 0;
  for (int64_t tile = 0; tile < rows(); tile += kTileRows) {
    const int64_t tile_rows = std::min(kTileRows, rows() - tile);
    for (int64_t query = 0; query < queries.rows; ++query) {
      faiss::fvec_inner_products_ny(scores.data(), queries.row(query).data(),
                                    RowData(tile), dimension(), tile_rows);
      if (options_.metric == Metric::kCosine) Clamp(absl::MakeSpan(scores));
      best[query].Add(tile, {scores.data(), static_cast<size_t>(tile_rows)});
      comparisons += tile_rows;
      if (comparisons < kComparisonsPerCheck) continue;
      QUERN_RETURN_IF_ERROR(context.Check("the end of the search"));
      comparisons = 0;
    }
  }
  return absl::OkStatus();
}

int64_t FaissIndex::memory_bytes() const {
  absl::ReaderMutexLock lock(&mutex_);
  const auto blocks = static_cast<int64_t>(blocks_.size());
  return blocks * kBlockRows * dimension() *
             static_cast<int64_t>(sizeof(float)) +
         rows() * kBytesPerId;
}

}  // namespace quern
