#include "engine/index/hnsw_graph.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "faiss/impl/AuxIndexStructures.h"
#include "faiss/impl/DistanceComputer.h"
#include "faiss/impl/HNSW.h"
#include <omp.h>

#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/base/work_crew.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "FAISS";
constexpr uint32_t kMaxLinks = 256;
// Nodes between two looks at the deadline: tens of microseconds each.
constexpr int kNodesPerCheck = 128;
constexpr size_t kInsertsPerPiece = 64;

// Which rows a search has met: those marked with its number.
class VisitedRows {
 public:
  void Begin(size_t rows) {
    if (marks_.size() < rows || number_ == 255) {
      marks_.assign(std::max(rows, marks_.size()), 0);
      number_ = 0;
    }
    ++number_;
  }

  // Whether it is the first time. Without a branch, which would be foretold
  // wrongly often.
  bool Visit(uint32_t row) {
    const bool is_new = marks_[row] != number_;
    marks_[row] = number_;
    return is_new;
  }

 private:
  std::vector<uint8_t> marks_;
  uint8_t number_ = 0;
};

// The best rows so far, best first, and which of them were expanded.
struct BeamEntry {
  float score;
  uint32_t row : 31;
  uint32_t expanded : 1;
};

// Reused by the searches of a thread, so that they allocate nothing.
struct Scratch {
  VisitedRows visited;
  std::vector<BeamEntry> beam;
  uint32_t fresh[kMaxLinks];
  float scores[kMaxLinks];
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

// Puts an entry where it belongs among the `size` best; returns its place, or
// `size` when it is not among the `width` best.
size_t InsertIntoBeam(BeamEntry entry, size_t width, BeamEntry* beam,
                      size_t* size) {
  // What is not a number can only come from a file made on purpose.
  if (std::isnan(entry.score) ||
      (*size == width && entry.score <= beam[width - 1].score)) {
    return width;
  }
  BeamEntry* const end = beam + *size;
  BeamEntry* const place = std::upper_bound(
      beam, end, entry,
      [](const BeamEntry& a, const BeamEntry& b) { return a.score > b.score; });
  // The worst goes when the beam is full.
  BeamEntry* const last = beam + std::min(*size, width - 1);
  std::move_backward(place, last, last + 1);
  *place = entry;
  if (*size < width) ++*size;
  return static_cast<size_t>(place - beam);
}

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("a graph's ", what, " is wrong"));
}

bool AllBelow(const uint32_t* words, size_t count, uint32_t limit) {
  for (size_t i = 0; i < count; ++i) {
    if (words[i] >= limit && words[i] != HnswGraph::kNoLink) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<HnswGraph> HnswGraph::Parse(absl::Span<const uint32_t> words,
                                           int64_t rows) {
  HnswGraph graph;
  size_t at = 0;
  // Null unless so many words are left.
  const auto take = [&](uint64_t count) -> const uint32_t* {
    if (count > words.size() - at) return nullptr;
    const uint32_t* taken = words.data() + at;
    at += count;
    return taken;
  };
  const uint32_t* head = take(kHeadWords);
  if (head == nullptr) return Damaged("head");
  graph.rows_ = rows;
  graph.links0_ = head[0];
  graph.upper_links_ = head[1];
  const uint32_t levels = head[2];
  graph.entry_ = head[3];
  if (graph.links0_ < 1 || graph.links0_ > kMaxLinks ||
      graph.upper_links_ < 1 || graph.upper_links_ > kMaxLinks || levels > 64 ||
      rows < 1 || rows >= (int64_t{1} << 31)) {
    return Damaged("head");
  }
  const uint64_t words0 = static_cast<uint64_t>(rows) * graph.links0_;
  graph.level0_ = take(words0);
  if (graph.level0_ == nullptr ||
      !AllBelow(graph.level0_, words0, static_cast<uint32_t>(rows))) {
    return Damaged("lowest level");
  }
  auto below = static_cast<uint32_t>(rows);
  for (uint32_t l = 0; l < levels; ++l) {
    const uint32_t* nodes = take(1);
    if (nodes == nullptr || *nodes < 1 || *nodes > below) {
      return Damaged("level");
    }
    Level level{.nodes = *nodes};
    level.rows = take(level.nodes);
    level.down = take(level.nodes);
    const uint64_t links =
        static_cast<uint64_t>(level.nodes) * graph.upper_links_;
    level.links = take(links);
    const auto all_below = [](const uint32_t* w, uint64_t n, uint32_t limit) {
      return std::all_of(w, w + n, [=](uint32_t word) { return word < limit; });
    };
    if (level.links == nullptr ||
        !all_below(level.rows, level.nodes, static_cast<uint32_t>(rows)) ||
        !all_below(level.down, level.nodes, below) ||
        !AllBelow(level.links, links, level.nodes)) {
      return Damaged("level");
    }
    graph.levels_.push_back(level);
    below = level.nodes;
  }
  if (at != words.size() || graph.entry_ >= below) return Damaged("size");
  return graph;
}

uint32_t HnswGraph::Descend(const QueryCodes& query,
                            const CodeRows& codes) const {
  uint32_t rows[kMaxLinks];
  float scores[kMaxLinks];
  uint32_t at = entry_;
  for (size_t l = levels_.size(); l-- > 0;) {
    const Level& level = levels_[l];
    float best = 0;
    ScoreRows(query, codes, &level.rows[at], 0, 1, &best);
    for (bool moved = true; moved;) {
      moved = false;
      const uint32_t* links = level.links + size_t{at} * upper_links_;
      size_t count = 0;
      while (count < upper_links_ && links[count] != kNoLink) {
        rows[count] = level.rows[links[count]];
        ++count;
      }
      ScoreRows(query, codes, rows, 0, count, scores);
      for (size_t i = 0; i < count; ++i) {
        if (!(scores[i] > best)) continue;  // Also what is not a number.
        best = scores[i];
        at = links[i];
        moved = true;
      }
    }
    at = level.down[at];
  }
  return at;
}

absl::Status HnswGraph::Search(const QueryCodes& query, const CodeRows& codes,
                               int64_t width,
                               const std::function<absl::Status()>& check,
                               std::vector<ScoredRow>* found) const {
  Scratch& scratch = ThreadScratch();
  VisitedRows& visited = scratch.visited;
  visited.Begin(static_cast<size_t>(rows_));
  const auto wide = static_cast<size_t>(std::min(width, rows_));
  if (scratch.beam.size() < wide) scratch.beam.resize(wide);
  BeamEntry* const beam = scratch.beam.data();
  size_t size = 0;

  const uint32_t start = Descend(query, codes);
  visited.Visit(start);
  float score = 0;
  ScoreRows(query, codes, &start, 0, 1, &score);
  InsertIntoBeam({score, start, 0}, wide, beam, &size);

  const auto prefetch_links = [&](size_t place) {
    PrefetchLines(level0_ + size_t{beam[place].row} * links0_,
                  links0_ * sizeof(uint32_t));
  };
  int nodes = 0;
  for (size_t next = 0; next < size;) {
    if (beam[next].expanded) {
      ++next;
      continue;
    }
    if (++nodes % kNodesPerCheck == 0) QUERN_RETURN_IF_ERROR(check());
    beam[next].expanded = 1;
    const uint32_t* links = level0_ + size_t{beam[next].row} * links0_;
    size_t fresh = 0;
    for (uint32_t i = 0; i < links0_ && links[i] != kNoLink; ++i) {
      scratch.fresh[fresh] = links[i];
      fresh += visited.Visit(links[i]) ? 1 : 0;
    }
    // The next one to be expanded, unless a better one is found.
    if (next + 1 < size) prefetch_links(next + 1);
    ScoreRows(query, codes, scratch.fresh, 0, fresh, scratch.scores);
    size_t first_changed = next + 1;
    for (size_t i = 0; i < fresh; ++i) {
      const size_t place = InsertIntoBeam(
          {scratch.scores[i], scratch.fresh[i], 0}, wide, beam, &size);
      // So far the next one to be expanded.
      if (place <= first_changed && place < size) prefetch_links(place);
      first_changed = std::min(first_changed, place);
    }
    next = first_changed;
  }
  found->clear();
  found->reserve(size);
  for (size_t i = 0; i < size; ++i) {
    found->push_back({beam[i].score, beam[i].row});
  }
  return absl::OkStatus();
}

namespace {

// What FAISS's builder asks distances of. It is asked about stored rows only,
// by one row at a time, in the rows' own codes.
class RowDistances final : public faiss::DistanceComputer {
 public:
  explicit RowDistances(const CodeRows& codes)
      : codes_(codes), query_(codes), other_(codes) {}

  void SetRow(uint32_t row) { query_.Load(row); }

  void set_query(const float*) override {}  // SetRow() does it.

  // Lower is nearer.
  float operator()(idx_t i) override { return Distance(query_, i); }

  // The builder compares many rows with one, the second, before the next.
  float symmetric_dis(idx_t i, idx_t j) override {
    other_.Load(static_cast<uint32_t>(j));
    return Distance(other_, i);
  }

 private:
  float Distance(const RowQuery& query, idx_t i) const {
    float score = 0;
    ScoreRows(query.codes(), codes_, nullptr, static_cast<uint32_t>(i), 1,
              &score);
    return -score;
  }

  const CodeRows codes_;
  RowQuery query_;
  RowQuery other_;
};

}  // namespace

struct HnswBuilder::State {
  State(const CodeRows& rows_of_codes, int64_t row_count,
        const HnswOptions& hnsw_options)
      : codes(rows_of_codes),
        rows(row_count),
        options(hnsw_options),
        hnsw(hnsw_options.links),
        locks(row_count) {
    hnsw.efConstruction = options.beam;
    hnsw.rng = faiss::RandomGenerator(options.seed);
    hnsw.prepare_level_tab(static_cast<size_t>(rows));
    for (omp_lock_t& lock : locks) omp_init_lock(&lock);
  }
  ~State() {
    for (omp_lock_t& lock : locks) omp_destroy_lock(&lock);
  }

  int LevelOf(uint32_t row) const { return hnsw.levels[row] - 1; }

  const CodeRows codes;
  const int64_t rows;
  const HnswOptions options;
  faiss::HNSW hnsw;
  std::vector<omp_lock_t> locks;
};

// Links rows as they were linked in another graph.
class HnswBuilder::Adoption {
 public:
  Adoption(const HnswGraph& graph, absl::Span<const uint32_t> row_of,
           State& state)
      : graph_(graph), row_of_(row_of), state_(state), hnsw_(state.hnsw) {}

  absl::Status Run(const std::function<absl::Status()>& check) {
    TakeLevels();
    std::vector<Worker> workers;
    WorkCrew crew({.name = "adopt", .threads = state_.options.threads - 1});
    workers.reserve(crew.workers());
    for (int i = 0; i < crew.workers(); ++i) workers.emplace_back(state_.codes);
    for (int level = 0; level <= TopLevel(); ++level) {
      const int64_t nodes = NodesOf(level);
      const int64_t pieces = (nodes + kNodesPerPiece - 1) / kNodesPerPiece;
      QUERN_RETURN_IF_ERROR(crew.Run(pieces, [&](int64_t piece, int worker) {
        return Guard(kLibrary, [&]() -> absl::Status {
          QUERN_RETURN_IF_ERROR(check());
          const int64_t begin = piece * kNodesPerPiece;
          const int64_t end = std::min(begin + kNodesPerPiece, nodes);
          for (int64_t node = begin; node < end; ++node) {
            LinkNode(level, static_cast<uint32_t>(node), workers[worker]);
          }
          return absl::OkStatus();
        });
      }));
    }
    ChooseEntry();
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kNodesPerPiece = 64;

  struct Candidate {
    float distance;
    uint32_t row;
  };

  // What a thread needs.
  struct Worker {
    explicit Worker(const CodeRows& codes) : distances(codes) {}

    RowDistances distances;
    std::vector<uint32_t> rows;
    std::vector<Candidate> candidates;
  };

  // Nodes are rows on level 0, and places above.
  int TopLevel() const { return static_cast<int>(graph_.levels_.size()); }
  int64_t NodesOf(int level) const {
    return level == 0 ? graph_.rows_ : graph_.levels_[level - 1].nodes;
  }
  uint32_t RowOf(int level, uint32_t node) const {
    return row_of_[level == 0 ? node : graph_.levels_[level - 1].rows[node]];
  }
  absl::Span<const uint32_t> LinksOf(int level, uint32_t node) const {
    const uint32_t room = level == 0 ? graph_.links0_ : graph_.upper_links_;
    const uint32_t* const links =
        (level == 0 ? graph_.level0_ : graph_.levels_[level - 1].links) +
        size_t{node} * room;
    return {links,
            static_cast<size_t>(
                std::find(links, links + room, HnswGraph::kNoLink) - links)};
  }

  void TakeLevels() {
    for (int level = 0; level <= TopLevel(); ++level) {
      for (int64_t node = 0; node < NodesOf(level); ++node) {
        const uint32_t row = RowOf(level, static_cast<uint32_t>(node));
        if (row != HnswGraph::kNoLink) hnsw_.levels[row] = level + 1;
      }
    }
    // Room for the links of all rows on their levels, and no links.
    hnsw_.offsets.assign(1, 0);
    hnsw_.neighbors.clear();
    hnsw_.prepare_level_tab(static_cast<size_t>(state_.rows),
                            /*preset_levels=*/true);
  }

  void LinkNode(int level, uint32_t node, Worker& worker) {
    const uint32_t row = RowOf(level, node);
    if (row == HnswGraph::kNoLink) return;
    std::vector<uint32_t>& kept = worker.rows;
    kept.clear();
    bool lost = false;
    for (const uint32_t link : LinksOf(level, node)) {
      const uint32_t neighbour = RowOf(level, link);
      if (neighbour == HnswGraph::kNoLink) {
        lost = true;
      } else {
        kept.push_back(neighbour);
      }
    }
    size_t begin = 0, end = 0;
    hnsw_.neighbor_range(row, level, &begin, &end);
    if (lost) AddOthers(level, node, end - begin, worker);
    for (const uint32_t neighbour : kept) {
      hnsw_.neighbors[begin++] = static_cast<int>(neighbour);
    }
  }

  // Fills `worker.rows`, the neighbours that are left, up to `room` with
  // neighbours of those that are gone, the nearest first: those that are
  // nearer to the node than to any of its neighbours.
  void AddOthers(int level, uint32_t node, size_t room, Worker& worker) {
    const uint32_t row = RowOf(level, node);
    std::vector<uint32_t>& kept = worker.rows;
    std::vector<Candidate>& candidates = worker.candidates;
    candidates.clear();
    for (const uint32_t link : LinksOf(level, node)) {
      if (RowOf(level, link) != HnswGraph::kNoLink) continue;
      for (const uint32_t other : LinksOf(level, link)) {
        const uint32_t other_row = RowOf(level, other);
        if (other_row == HnswGraph::kNoLink || other_row == row) continue;
        candidates.push_back({0, other_row});
      }
    }
    worker.distances.SetRow(row);
    for (Candidate& candidate : candidates) {
      candidate.distance = worker.distances(candidate.row);
    }
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) {
                return std::tie(a.distance, a.row) <
                       std::tie(b.distance, b.row);
              });
    for (const Candidate& candidate : candidates) {
      if (kept.size() == room) break;
      const bool hidden =
          std::any_of(kept.begin(), kept.end(), [&](uint32_t neighbour) {
            return neighbour == candidate.row ||
                   worker.distances.symmetric_dis(neighbour, candidate.row) <=
                       candidate.distance;
          });
      if (!hidden) kept.push_back(candidate.row);
    }
  }

  // On the highest level that has one.
  void ChooseEntry() {
    for (int level = TopLevel(); level >= 0; --level) {
      for (int64_t node = 0; node < NodesOf(level); ++node) {
        const uint32_t row = RowOf(level, static_cast<uint32_t>(node));
        if (row == HnswGraph::kNoLink) continue;
        hnsw_.max_level = level;
        hnsw_.entry_point = static_cast<int>(row);
        return;
      }
    }
  }

  const HnswGraph& graph_;
  const absl::Span<const uint32_t> row_of_;
  State& state_;
  faiss::HNSW& hnsw_;
};

HnswBuilder::HnswBuilder(const CodeRows& codes, int64_t rows,
                         const HnswOptions& options)
    : state_(std::make_unique<State>(codes, rows, options)) {}

bool HnswBuilder::CanAdopt(const HnswGraph& graph, const HnswOptions& options) {
  const faiss::HNSW hnsw(options.links);
  int64_t above = 0;  // A fifteenth of the rows, unless somebody means harm.
  for (const HnswGraph::Level& level : graph.levels_) above += level.nodes;
  return !graph.empty() && 4 * above <= graph.rows_ &&
         graph.links0_ == static_cast<uint32_t>(hnsw.nb_neighbors(0)) &&
         graph.upper_links_ == static_cast<uint32_t>(hnsw.nb_neighbors(1)) &&
         graph.levels_.size() + 2 <= hnsw.cum_nneighbor_per_level.size();
}

absl::Status HnswBuilder::Adopt(const HnswGraph& graph,
                                absl::Span<const uint32_t> row_of,
                                const std::function<absl::Status()>& check) {
  return Adoption(graph, row_of, *state_).Run(check);
}

HnswBuilder::~HnswBuilder() = default;

absl::Status HnswBuilder::Insert(absl::Span<const uint32_t> rows,
                                 const std::function<absl::Status()>& check) {
  State& state = *state_;
  // Higher levels first, as FAISS does it: an insert that raises the top level
  // must be alone.
  std::vector<uint32_t> order(rows.begin(), rows.end());
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return state.LevelOf(a) > state.LevelOf(b);
  });
  struct Scratch {
    explicit Scratch(const State& state)
        : distances(state.codes), visited(static_cast<int>(state.rows)) {}

    RowDistances distances;
    faiss::VisitedTable visited;
  };
  WorkCrew crew({.name = "graph", .threads = state.options.threads - 1});
  std::vector<std::optional<Scratch>> scratches(crew.workers());
  // Rows `begin` to `end` - 1 of the order.
  const auto insert = [&](size_t begin, size_t end, int worker) {
    return Guard(kLibrary, [&]() -> absl::Status {
      std::optional<Scratch>& scratch = scratches[worker];
      if (!scratch.has_value()) scratch.emplace(state);
      for (size_t i = begin; i < end; ++i) {
        QUERN_RETURN_IF_ERROR(check());
        scratch->distances.SetRow(order[i]);
        state.hnsw.add_with_locks(scratch->distances, state.LevelOf(order[i]),
                                  static_cast<int>(order[i]), state.locks,
                                  scratch->visited);
      }
      return absl::OkStatus();
    });
  };
  size_t alone = 0;
  const int top = order.empty() ? 0 : state.LevelOf(order.front());
  while (alone < order.size() && state.LevelOf(order[alone]) == top &&
         top > state.hnsw.max_level) {
    QUERN_RETURN_IF_ERROR(insert(alone, alone + 1, 0));
    ++alone;
  }
  const size_t pieces =
      (order.size() - alone + kInsertsPerPiece - 1) / kInsertsPerPiece;
  return crew.Run(static_cast<int64_t>(pieces), [&](int64_t piece, int worker) {
    const size_t begin = alone + static_cast<size_t>(piece) * kInsertsPerPiece;
    return insert(begin, std::min(begin + kInsertsPerPiece, order.size()),
                  worker);
  });
}

size_t HnswBuilder::max_packed_words() const {
  const State& state = *state_;
  const size_t links = state.hnsw.nb_neighbors(0);
  const size_t upper = state.hnsw.nb_neighbors(1);
  size_t words = HnswGraph::kHeadWords + state.rows * links;
  int levels = 0;
  for (int64_t row = 0; row < state.rows; ++row) {
    const int level = state.LevelOf(static_cast<uint32_t>(row));
    levels = std::max(levels, level);
    words += static_cast<size_t>(level) * (2 + upper);
  }
  return words + levels;
}

size_t HnswBuilder::Pack(uint32_t* words) const {
  const State& state = *state_;
  const faiss::HNSW& hnsw = state.hnsw;
  const auto pack_links = [&](uint32_t row, int level, size_t room,
                              const std::vector<uint32_t>* places,
                              uint32_t* out) {
    size_t begin = 0, end = 0;
    hnsw.neighbor_range(row, level, &begin, &end);
    std::fill_n(out, room, HnswGraph::kNoLink);
    for (size_t i = begin; i < end && hnsw.neighbors[i] >= 0; ++i) {
      const auto neighbour = static_cast<uint32_t>(hnsw.neighbors[i]);
      *out++ = places == nullptr ? neighbour : (*places)[neighbour];
    }
  };
  const auto links = static_cast<uint32_t>(hnsw.nb_neighbors(0));
  const auto upper = static_cast<uint32_t>(hnsw.nb_neighbors(1));
  uint32_t* const head = words;
  words += HnswGraph::kHeadWords;
  std::vector<uint32_t> above;
  for (uint32_t row = 0; row < state.rows; ++row) {
    pack_links(row, 0, links, nullptr, words);
    words += links;
    if (state.LevelOf(row) > 0) above.push_back(row);
  }
  std::vector<uint32_t> places(above.empty() ? 0 : state.rows);
  std::vector<uint32_t> places_below;
  uint32_t entry = 0;
  uint32_t levels = 0;
  // Rows that are not inserted yet may have levels above the entry point's.
  for (int level = 1; level <= hnsw.max_level; ++level) {
    ++levels;
    places_below = places;
    for (uint32_t i = 0; i < above.size(); ++i) places[above[i]] = i;
    *words++ = static_cast<uint32_t>(above.size());
    words = std::copy(above.begin(), above.end(), words);
    for (const uint32_t row : above) {
      *words++ = level == 1 ? row : places_below[row];
    }
    for (const uint32_t row : above) {
      pack_links(row, level, upper, &places, words);
      words += upper;
    }
    entry = 0;
    for (uint32_t i = 0; i < above.size(); ++i) {
      if (above[i] == static_cast<uint32_t>(hnsw.entry_point)) entry = i;
    }
    std::erase_if(above,
                  [&](uint32_t row) { return state.LevelOf(row) <= level; });
  }
  head[0] = links;
  head[1] = upper;
  head[2] = levels;
  head[3] = levels == 0 ? static_cast<uint32_t>(hnsw.entry_point) : entry;
  return static_cast<size_t>(words - head);
}

}  // namespace quern
