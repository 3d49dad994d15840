#include "engine/index/candidates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/base/status_macros.h"

namespace quern {
namespace {

static_assert(Delta::kChunkRows % kTileRows == 0, "a tile lies in one chunk");
// Comparisons between two looks at the deadline; a few milliseconds.
constexpr int64_t kComparisonsPerCheck = 65'536;
// Entries beyond k that may wait before they are looked through.
constexpr size_t kSlack = 512;
// Vectors beyond k that are read at once.
constexpr size_t kReadAhead = 8;

// Rounding takes the cosine of equal directions a little over 1.
float Clamped(float score, Metric metric) {
  return metric == Metric::kCosine ? std::clamp(score, -1.0F, 1.0F) : score;
}

// The rows of a part that lie one after the other in memory; row `row` is
// number
// `*first` of them.
CodeRows TileOf(const IndexPart& part, int64_t row, uint32_t* first) {
  if (part.segment != nullptr) {
    *first = static_cast<uint32_t>(row);
    return part.segment->codes();
  }
  *first = static_cast<uint32_t>(row % Delta::kChunkRows);
  return part.delta->chunk_rows(row / Delta::kChunkRows);
}

// Their binary codes.
BinaryRows BinaryTileOf(const IndexPart& part, int64_t row) {
  return part.segment != nullptr
             ? part.segment->binary_rows()
             : part.delta->binary_rows(row / Delta::kChunkRows);
}

}  // namespace

void Candidates::RaiseThreshold(float lowest) {
  const std::greater<> better;
  if (static_cast<int64_t>(lowest_.size()) < k_) {
    lowest_.push_back(lowest);
    std::push_heap(lowest_.begin(), lowest_.end(), better);
  } else if (lowest > lowest_.front()) {
    std::pop_heap(lowest_.begin(), lowest_.end(), better);
    lowest_.back() = lowest;
    std::push_heap(lowest_.begin(), lowest_.end(), better);
  } else {
    return;
  }
  if (static_cast<int64_t>(lowest_.size()) == k_) threshold_ = lowest_.front();
}

void Candidates::Add(float score, float error, uint32_t part, uint32_t row) {
  const Entry entry{score, error, part, row};
  // Also what is not a number, which only a file made on purpose can give.
  if (!std::isfinite(score) || !(entry.highest() >= threshold_)) return;
  RaiseThreshold(score - error);
  entries_.push_back(entry);
  if (entries_.size() >= prune_at_) Prune();
}

void Candidates::Merge(const Candidates& other) {
  for (const Entry& entry : other.entries_) {
    Add(entry.score, entry.error, entry.part, entry.row);
  }
}

void Candidates::Forget(uint32_t part) {
  std::erase_if(entries_,
                [part](const Entry& entry) { return entry.part == part; });
  lowest_.clear();
  threshold_ = -std::numeric_limits<float>::infinity();
  for (const Entry& entry : entries_) RaiseThreshold(entry.score - entry.error);
}

void Candidates::Prune() {
  std::erase_if(entries_, [this](const Entry& entry) {
    return entry.highest() < threshold_;
  });
  // Of many equal scores only those of the smallest ids can stay.
  if (entries_.size() >
      2 * static_cast<size_t>(std::min<int64_t>(k_, int64_t{1} << 40)) +
          kSlack) {
    const auto order = [this](const Entry& a, const Entry& b) {
      if (a.highest() != b.highest()) return a.highest() > b.highest();
      return parts_[a.part].id(a.row) < parts_[b.part].id(b.row);
    };
    const bool exact = std::all_of(entries_.begin(), entries_.end(),
                                   [](const Entry& e) { return e.error == 0; });
    if (exact) {
      std::nth_element(entries_.begin(), entries_.begin() + k_, entries_.end(),
                       order);
      entries_.resize(k_);
    }
  }
  prune_at_ = 2 * entries_.size() + kSlack;
}

// Gives an entry the score of a vector, which PrepareVector() has passed.
// False: the vector was replaced since the search began, so that it is not the
// one that this row stands for.
bool Candidates::SetExact(const EncodedQuery& query, Metric metric,
                          absl::Span<const float> values, Entry& entry) const {
  const CodeRows& codes = parts_[entry.part].segment->codes();
  const float score = Clamped(
      InnerProduct(query.codes().values, values.data(), values.size()), metric);
  if (!(std::abs(score - entry.score) <=
        query.ErrorBound(codes, entry.row, metric == Metric::kCosine))) {
    return false;
  }
  entry.score = score;
  return true;
}

// Of the entries at `wanted`, from the store.
absl::Status Candidates::ReadExact(const EncodedQuery& query, Metric metric,
                                   const ExactVectors& vectors,
                                   absl::Span<const size_t> wanted) {
  if (wanted.empty() || vectors.reader == nullptr) return absl::OkStatus();
  std::vector<std::string> ids;
  ids.reserve(wanted.size());
  for (const size_t i : wanted) {
    ids.emplace_back(parts_[entries_[i].part].id(entries_[i].row));
  }
  std::vector<float> padded(RowBytes(VectorStorage::kFp32, query.dimension()) /
                            sizeof(float));
  return vectors.reader(ids, [&](size_t i, absl::Span<const float> vector) {
    Entry& entry = entries_[wanted[i]];
    if (static_cast<int64_t>(vector.size()) == query.dimension() &&
        PrepareVector(vector, metric, padded.data()).ok() &&
        SetExact(query, metric, padded, entry) && vectors.cache != nullptr) {
      vectors.cache->Put(KeyOf(entry), padded);
    }
  });
}

// Likewise from the cache; takes out of `wanted` those that are there.
void Candidates::FindExact(const EncodedQuery& query, Metric metric,
                           VectorCache& cache, std::vector<size_t>& wanted) {
  const size_t row_bytes = RowBytes(VectorStorage::kFp32, query.dimension());
  std::vector<VectorCache::Key> keys;
  keys.reserve(wanted.size());
  for (const size_t i : wanted) keys.push_back(KeyOf(entries_[i]));
  const std::vector<VectorCache::Values> found = cache.Find(keys);
  for (const VectorCache::Values& values : found) {
    if (values != nullptr) PrefetchLines(values.get(), row_bytes);
  }
  size_t missing = 0;
  for (size_t f = 0; f < found.size(); ++f) {
    if (found[f] == nullptr) {
      wanted[missing++] = wanted[f];
    } else {
      SetExact(query, metric, {found[f].get(), row_bytes / sizeof(float)},
               entries_[wanted[f]]);
    }
  }
  wanted.resize(missing);
}

absl::Status Candidates::MakeExact(const EncodedQuery& query, Metric metric,
                                   const ExactVectors& vectors, size_t begin,
                                   size_t end) {
  std::vector<size_t> wanted;
  for (size_t i = begin; i < end; ++i) {
    if (entries_[i].error != 0) wanted.push_back(i);
  }
  if (vectors.cache != nullptr) {
    FindExact(query, metric, *vectors.cache, wanted);
  }
  QUERN_RETURN_IF_ERROR(ReadExact(query, metric, vectors, wanted));
  for (size_t i = begin; i < end; ++i) entries_[i].error = 0;
  return absl::OkStatus();
}

// Whether two rows' vectors cannot be told apart by what segments keep.
bool Candidates::AreTwins(const Entry& a, const Entry& b) const {
  if (a.score != b.score || a.error != b.error || a.error == 0) return false;
  const CodeRows& in_a = parts_[a.part].segment->codes();
  const CodeRows& in_b = parts_[b.part].segment->codes();
  return in_a.storage == in_b.storage &&
         in_a.scales[a.row].scale == in_b.scales[b.row].scale &&
         in_a.scales[a.row].error == in_b.scales[b.row].error &&
         std::memcmp(in_a.row(a.row), in_b.row(b.row), in_a.row_bytes) == 0;
}

size_t Candidates::GatherTwins(size_t begin, size_t count) {
  const auto first = entries_.begin() + static_cast<int64_t>(begin);
  const auto end = std::find_if(first, entries_.end(), [&](const Entry& entry) {
    return entry.highest() != first->highest();
  });
  if (static_cast<size_t>(end - first) <= count) return begin;
  const auto twins_end =
      std::partition(first, end, [this, twin = *first](const Entry& entry) {
        return AreTwins(entry, twin);
      });
  if (static_cast<size_t>(twins_end - first) > count) {
    std::partial_sort(first, first + static_cast<int64_t>(count), twins_end,
                      [this](const Entry& a, const Entry& b) {
                        return parts_[a.part].id(a.row) <
                               parts_[b.part].id(b.row);
                      });
  }
  return static_cast<size_t>(twins_end - entries_.begin());
}

bool Candidates::ShareScore(size_t begin, size_t end) const {
  std::vector<float> scores;
  scores.reserve(end - begin);
  for (size_t i = begin; i < end; ++i) scores.push_back(entries_[i].score);
  std::sort(scores.begin(), scores.end());
  for (size_t i = static_cast<size_t>(k_) - 1; i < scores.size(); ++i) {
    if (scores[i] == scores[i + 1 - static_cast<size_t>(k_)]) return true;
  }
  return false;
}

absl::StatusOr<std::vector<ScoredId>> Candidates::Take(
    const EncodedQuery& query, Metric metric, const ExactVectors& vectors,
    float sigmas) {
  Prune();
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) {
              if (a.highest() != b.highest()) return a.highest() > b.highest();
              return a.part != b.part ? a.part < b.part : a.row < b.row;
            });
  // What is exact so far decides how far down it is worth to look.
  lowest_.clear();
  threshold_ = -std::numeric_limits<float>::infinity();
  size_t done = 0;
  while (done < entries_.size() && entries_[done].highest() >= threshold_) {
    const auto left = static_cast<int64_t>(entries_.size() - done);
    int64_t next =
        done == 0
            ? std::min(left,
                       std::min(k_, left) + static_cast<int64_t>(kReadAhead))
            : std::min<int64_t>(
                  left, std::max(static_cast<int64_t>(done) / 4, int64_t{16}));
    size_t twins_end = done;
    if (std::isfinite(sigmas)) {
      const int64_t twins = std::max(next, std::min(k_, left));
      twins_end = GatherTwins(done, static_cast<size_t>(twins));
      if (twins_end > done + static_cast<size_t>(twins)) next = twins;
    }
    const size_t end = done + static_cast<size_t>(next);
    QUERN_RETURN_IF_ERROR(MakeExact(query, metric, vectors, done, end));
    // Those left of them would come behind k.
    if (twins_end > end && ShareScore(done, end)) {
      entries_.erase(entries_.begin() + static_cast<int64_t>(end),
                     entries_.begin() + static_cast<int64_t>(twins_end));
    }
    while (done < end) RaiseThreshold(entries_[done++].score);
  }
  entries_.resize(done);
  struct Result {
    float score;
    absl::string_view id;
  };
  std::vector<Result> results;
  results.reserve(done);
  for (const Entry& entry : entries_) {
    results.push_back({entry.score, parts_[entry.part].id(entry.row)});
  }
  std::sort(results.begin(), results.end(),
            [](const Result& a, const Result& b) {
              return a.score != b.score ? a.score > b.score : a.id < b.id;
            });
  if (static_cast<int64_t>(results.size()) > k_) results.resize(k_);
  std::vector<ScoredId> taken;
  taken.reserve(results.size());
  for (const Result& result : results) {
    taken.push_back(
        {.id = std::string(result.id), .score = Clamped(result.score, metric)});
  }
  return taken;
}

namespace {

// Adds row `row` of a part, which is row `code` of `codes`.
void AddScored(const SearchedPart& searched, const EncodedQuery& query,
               const CodeRows& codes, uint32_t code, uint32_t row, float score,
               Candidates& candidates) {
  const float error = query.ErrorBound(
      codes, code, searched.metric == Metric::kCosine, searched.sigmas);
  // Only exact scores are clamped: the others would move off theirs.
  candidates.Add(error == 0 ? Clamped(score, searched.metric) : score, error,
                 searched.number, row);
}

// Compares tiles of one part with all queries.
class TileScan {
 public:
  TileScan(const SearchedPart& searched, absl::Span<const EncodedQuery> queries,
           absl::Span<Candidates> candidates)
      : searched_(searched),
        queries_(queries),
        candidates_(candidates),
        by_bits_(searched.part.has_binary_codes() &&
                 std::isfinite(searched.sigmas) && !queries.empty() &&
                 queries[0].binary().has_value()) {}

  // Returns the number of comparisons.
  int64_t Scan(int64_t begin, int64_t end) {
    begin_ = begin;
    count_ = static_cast<size_t>(end - begin);
    if (!FindWanted()) return 0;
    rows_ = TileOf(searched_.part, begin, &first_);
    FindWorstScale();
    if (by_bits_) {
      for (size_t q = 0; q < queries_.size(); ++q) CollectByBits(q);
      return static_cast<int64_t>(count_ * queries_.size());
    }
    size_t q = 0;
    for (; q + kQueriesTogether <= queries_.size(); q += kQueriesTogether) {
      const QueryCodes* codes[kQueriesTogether];
      float* scores[kQueriesTogether];
      for (size_t i = 0; i < kQueriesTogether; ++i) {
        codes[i] = &queries_[q + i].codes();
        scores[i] = scores_[i].data();
      }
      ScoreRowsOfFour(codes, rows_, first_, count_, scores);
      for (size_t i = 0; i < kQueriesTogether; ++i) Collect(q + i, scores[i]);
    }
    for (; q < queries_.size(); ++q) {
      ScoreRows(queries_[q].codes(), rows_, nullptr, first_, count_,
                scores_[0].data());
      Collect(q, scores_[0].data());
    }
    return static_cast<int64_t>(count_ * queries_.size());
  }

 private:
  // Whether there are any.
  bool FindWanted() {
    if (searched_.wants_all()) return true;
    bool any = false;
    for (size_t i = 0; i < count_; ++i) {
      wanted_[i] = searched_.IsWanted(begin_ + static_cast<int64_t>(i));
      any |= wanted_[i];
    }
    return any;
  }

  // So that most rows need no error bound of their own.
  void FindWorstScale() {
    worst_ = {.scale = 0, .error = 0};
    if (rows_.scales == nullptr) return;
    for (const CodeScale& scale :
         absl::MakeSpan(rows_.scales + first_, count_)) {
      worst_.scale = std::max(worst_.scale, scale.scale);
      worst_.error = std::max(worst_.error, scale.error);
    }
  }

  // Compares only rows whose bits say that it may be worth it.
  void CollectByBits(size_t q) {
    const EncodedQuery& query = queries_[q];
    Candidates& candidates = candidates_[q];
    std::array<uint32_t, kTileRows> list{};
    size_t listed = query.binary()->MayReach(
        candidates.threshold() - WorstError(query), searched_.sigmas,
        BinaryTileOf(searched_.part, begin_), first_, count_, list.data());
    if (!searched_.wants_all()) {
      listed = std::remove_if(
                   list.begin(), list.begin() + listed,
                   [this](uint32_t row) { return !wanted_[row - first_]; }) -
               list.begin();
    }
    ScoreRows(query.codes(), rows_, list.data(), 0, listed, scores_[0].data());
    for (size_t i = 0; i < listed; ++i) Add(q, list[i], scores_[0][i]);
  }

  void Collect(size_t q, const float* scores) {
    const EncodedQuery& query = queries_[q];
    Candidates& candidates = candidates_[q];
    const float most = WorstError(query);
    for (size_t i = 0; i < count_; ++i) {
      if (scores[i] + most < candidates.threshold() ||
          (!searched_.wants_all() && !wanted_[i])) {
        continue;
      }
      Add(q, first_ + static_cast<uint32_t>(i), scores[i]);
    }
  }

  // Of all rows of the tile.
  float WorstError(const EncodedQuery& query) const {
    CodeRows worst = rows_;
    worst.scales = &worst_;
    return query.ErrorBound(worst, 0, searched_.metric == Metric::kCosine,
                            searched_.sigmas);
  }

  // `row` is a number of `rows_`.
  void Add(size_t q, uint32_t row, float score) {
    AddScored(searched_, queries_[q], rows_, row,
              static_cast<uint32_t>(begin_) + row - first_, score,
              candidates_[q]);
  }

  const SearchedPart& searched_;
  const absl::Span<const EncodedQuery> queries_;
  const absl::Span<Candidates> candidates_;
  const bool by_bits_;
  int64_t begin_ = 0;
  size_t count_ = 0;
  CodeRows rows_;
  uint32_t first_ = 0;
  CodeScale worst_;
  std::array<bool, kTileRows> wanted_{};
  std::array<std::array<float, kTileRows>, kQueriesTogether> scores_{};
};

}  // namespace

absl::Status ScanPart(const RequestContext& context,
                      const SearchedPart& searched,
                      absl::Span<const EncodedQuery> queries, int64_t begin,
                      int64_t end, absl::Span<Candidates> candidates) {
  TileScan scan(searched, queries, candidates);
  int64_t comparisons = 0;
  for (int64_t tile = begin; tile < end; tile += kTileRows) {
    comparisons += scan.Scan(tile, std::min(end, tile + kTileRows));
    if (comparisons < kComparisonsPerCheck) continue;
    QUERN_RETURN_IF_ERROR(context.Check("the end of the search"));
    comparisons = 0;
  }
  return absl::OkStatus();
}

absl::Status ScanRows(const RequestContext& context,
                      const SearchedPart& searched, const EncodedQuery& query,
                      absl::Span<const uint32_t> rows, Candidates& candidates) {
  const CodeRows& codes = searched.part.segment->codes();
  std::array<float, kTileRows> scores{};
  for (size_t begin = 0; begin < rows.size(); begin += kTileRows) {
    if (begin % kComparisonsPerCheck == 0) {
      QUERN_RETURN_IF_ERROR(context.Check("the end of the search"));
    }
    const auto some = rows.subspan(begin, kTileRows);
    ScoreRows(query.codes(), codes, some.data(), 0, some.size(), scores.data());
    for (size_t i = 0; i < some.size(); ++i) {
      AddScored(searched, query, codes, some[i], some[i], scores[i],
                candidates);
    }
  }
  return absl::OkStatus();
}

absl::Status SearchGraph(const RequestContext& context,
                         const SearchedPart& searched,
                         const EncodedQuery& query, int64_t width,
                         std::vector<ScoredRow>* found) {
  const Segment& segment = *searched.part.segment;
  QUERN_RETURN_IF_ERROR(segment.graph().Search(
      query.codes(), segment.codes(), width,
      [&context] { return context.Check("the end of the search"); }, found));
  if (!searched.wants_all()) {
    std::erase_if(*found, [&](const ScoredRow& row) {
      return !searched.IsWanted(row.row);
    });
  }
  return absl::OkStatus();
}

void AddFound(const SearchedPart& searched, const EncodedQuery& query,
              absl::Span<const ScoredRow> found, Candidates& candidates) {
  const CodeRows& codes = searched.part.segment->codes();
  for (const ScoredRow& row : found) {
    AddScored(searched, query, codes, row.row, row.row, row.score, candidates);
  }
}

std::vector<uint32_t> WantedRows(const SearchedPart& searched,
                                 absl::Span<const uint32_t> rows) {
  std::vector<uint32_t> wanted;
  wanted.reserve(rows.size());
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(wanted),
               [&](uint32_t row) { return searched.IsWanted(row); });
  return wanted;
}

}  // namespace quern
