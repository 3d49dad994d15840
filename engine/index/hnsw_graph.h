#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/index/kernels.h"
#include "engine/index/vector_codes.h"

// A navigable small-world graph (Malkov and Yashunin, "Efficient and robust
// approximate nearest neighbor search using Hierarchical Navigable Small World
// graphs", 2018): FAISS links it, a loop of our own searches a packed copy.

namespace quern {

struct ScoredRow {
  float score;
  uint32_t row;
};

// The packed graph, a view of 32-bit words:
//   head        kHeadWords: links per node on level 0 and above, upper levels,
//               the entry point's place on the top level
//   level 0     rows x links: neighbours' rows, kNoLink behind the last
//   each level above, from the first: its number of nodes n, then
//     rows      n: each node's row
//     down      n: its place on the level below (on the first: its row)
//     links     n x upper links: neighbours' places on this level
// Immutable, so safe to share between threads.
class HnswGraph {
 public:
  static constexpr uint32_t kNoLink = 0xFFFFFFFF;
  static constexpr size_t kHeadWords = 4;

  HnswGraph() = default;

  // `words` must outlive the graph. Errors: kDataLoss for words that are not a
  // graph of so many rows; after OK no search leaves them.
  static absl::StatusOr<HnswGraph> Parse(absl::Span<const uint32_t> words,
                                         int64_t rows);

  bool empty() const { return level0_ == nullptr; }

  // The best rows that a beam of `width` rows finds, best first. `check` runs
  // now and then; its errors end the search.
  absl::Status Search(const QueryCodes& query, const CodeRows& codes,
                      int64_t width, const std::function<absl::Status()>& check,
                      std::vector<ScoredRow>* found) const;

 private:
  friend class HnswBuilder;

  struct Level {
    uint32_t nodes = 0;
    const uint32_t* rows = nullptr;
    const uint32_t* down = nullptr;
    const uint32_t* links = nullptr;
  };

  // The row on level 0 to begin with.
  uint32_t Descend(const QueryCodes& query, const CodeRows& codes) const;

  int64_t rows_ = 0;
  uint32_t links0_ = 0;
  uint32_t upper_links_ = 0;
  uint32_t entry_ = 0;
  const uint32_t* level0_ = nullptr;
  std::vector<Level> levels_;  // Those above 0, from the first.
};

struct HnswOptions {
  int links = 16;              // M; twice as many on level 0.
  int beam = 128;              // efConstruction.
  int threads = 1;             // That insert side by side.
  unsigned seed = 0x51756572;  // Of the levels.
};

// Builds a graph over rows of codes. Not thread-safe.
class HnswBuilder {
 public:
  // `codes` must outlive the builder.
  HnswBuilder(const CodeRows& codes, int64_t rows, const HnswOptions& options);
  ~HnswBuilder();

  // Whether a graph is of the form that `options` ask for.
  static bool CanAdopt(const HnswGraph& graph, const HnswOptions& options);

  // Takes over the links of a graph that CanAdopt(), as if its rows were
  // inserted; before any other row is. `row_of` says what each of them is here,
  // none twice; kNoLink: it is left out. Whom it leaves is linked to its
  // neighbours instead, as far as there is room (Singh et al., "FreshDiskANN: A
  // Fast and Accurate Graph-Based ANN Index for Streaming Similarity Search",
  // 2021, Algorithm 4). `check` as for Insert().
  absl::Status Adopt(const HnswGraph& graph, absl::Span<const uint32_t> row_of,
                     const std::function<absl::Status()>& check);

  // Links rows; each at most once. `check` runs now and then, on any thread;
  // its errors end the building.
  absl::Status Insert(absl::Span<const uint32_t> rows,
                      const std::function<absl::Status()>& check);

  // Room that Pack() needs, whatever is inserted.
  size_t max_packed_words() const;
  // Writes the graph of the rows inserted so far, one at least, and returns the
  // number of its words. Rows that are not inserted are never found.
  size_t Pack(uint32_t* words) const;

 private:
  struct State;
  class Adoption;

  const std::unique_ptr<State> state_;
};

}  // namespace quern
