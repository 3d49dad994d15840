// What the fine stage takes on one core, features at hand or in a store. A
// table, of processor time where one thread works alone, so that what else the
// machine does counts little; the bound of the memory's speed is measured in
// turns with what it bounds. Latencies under load are of the clock.
//
//   fine_bench [--only scores|grounding|stage ...] [--rounds N] [--json FILE]

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

#include "engine/fine/item_parts.h"
#include "engine/fine/late_interaction.h"
#include "engine/fine/quantized_features.h"
#include "engine/fine/region_grounder.h"
#include "engine/fine/segment_grounder.h"
#include "engine/query/rerank.h"
#include "engine/store/rocksdb_item_store.h"
#include "tests/bench/bench.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 512;
constexpr int64_t kCandidates = 1000;
constexpr int64_t kCells = 49;
// Short lists that are scored in turns, so that none is in the caches.
constexpr int64_t kLists = 8;
// Items of the store: more than its cache of blocks holds.
constexpr int64_t kItems = 5000;
constexpr int64_t kBlockCacheBytes = 64 << 20;  // quernd's default.
constexpr int kLoadThreads = 8;

Matrix RandomRows(int64_t rows, std::mt19937& random) {
  std::normal_distribution<float> value;
  Matrix matrix(rows, kDimension);
  for (int64_t i = 0; i < rows * kDimension; ++i) {
    matrix.data()[i] = value(random);
  }
  return matrix;
}

// Rows that look alike in stretches, as the cells of a thing and the frames of
// a shot do, in all of them a little.
Matrix RowsOfThings(int64_t rows, std::mt19937& random) {
  constexpr int64_t kStretch = 6;
  const Matrix all = RandomRows(1, random);
  const Matrix things = RandomRows(rows / kStretch + 1, random);
  Matrix matrix = RandomRows(rows, random);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < kDimension; ++i) {
      matrix.row(row)[i] = 0.5F * matrix.row(row)[i] +
                           things.row(row / kStretch)[i] + all.row(0)[i];
    }
  }
  return matrix;
}

std::vector<float> RandomQuery(std::mt19937& random) {
  const Matrix row = RandomRows(1, random);
  double squares = 0;
  for (const float value : row.row(0)) squares += double{value} * value;
  std::vector<float> query(row.row(0).begin(), row.row(0).end());
  for (float& value : query) {
    value = static_cast<float>(value / std::sqrt(squares));
  }
  return query;
}

// Processor time that this thread takes for `work`, in milliseconds.
double ProcessorMs(const std::function<void()>& work) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return 1e3 * static_cast<double>(time.tv_sec) +
           1e-6 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

// The median of `rounds` times `work`, in milliseconds.
double MedianMs(int rounds, const std::function<void()>& work) {
  std::vector<double> ms;
  for (int round = 0; round < rounds; ++round) {
    ms.push_back(ProcessorMs(work));
  }
  return Median(ms);
}

// `token_count` is 14 for a caption, 1 for a query as a whole.
void MeasureLateInteraction(int64_t token_count, int rounds,
                            std::vector<Row>& rows) {
  std::mt19937 random(1);
  std::vector<std::vector<QuantizedFeatures>> lists(kLists);
  for (std::vector<QuantizedFeatures>& list : lists) {
    for (int64_t i = 0; i < kCandidates; ++i) {
      list.push_back(QuantizeUnitRows(RandomRows(kCells, random).view()));
    }
  }
  const Matrix tokens = RandomRows(token_count, random);
  std::vector<double> read_ms, score_ms, ratios;
  double kept = 0;  // So that nothing is left out.
  for (int round = 0; round < rounds; ++round) {
    const std::vector<QuantizedFeatures>& list = lists[round % kLists];
    // The quickest reader at hand; what it looks for is nowhere.
    read_ms.push_back(ProcessorMs([&] {
      for (const QuantizedFeatures& cells : list) {
        kept += std::memchr(cells.values.data(), 0x80, cells.values.size()) ==
                        nullptr
                    ? 1
                    : 0;
      }
    }));
    const std::vector<QuantizedFeatures>& other =
        lists[(round + kLists / 2) % kLists];
    score_ms.push_back(ProcessorMs([&] {
      const LateInteraction scorer =
          ValueOrDie(LateInteraction::Create(tokens.view()));
      for (const QuantizedFeatures& cells : other) kept += scorer.Score(cells);
    }));
    ratios.push_back(score_ms.back() / read_ms.back());
  }
  if (kept == 0) std::cerr << "all scores are zero\n";
  const std::string name =
      absl::StrCat("1,000 grids of 49 x 512 bytes, ", token_count, " token(s)");
  rows.push_back({absl::StrCat(name, ", only read"), Median(read_ms), "ms"});
  rows.push_back({name, Median(score_ms), "ms", 8});
  rows.push_back({absl::StrCat(name, " / only read"), Median(ratios), "", 2});
}

// From the bytes that a store keeps to the box.
void FindRegion(const std::string& bytes, const std::vector<float>& phrase) {
  const PartFeatures parts = ValueOrDie(DecodeParts(bytes));
  const Matrix cells = Dequantize(parts.features);
  const RegionGrounder grounder({.cells = cells.view(),
                                 .height = parts.shape.grid_height,
                                 .width = parts.shape.grid_width});
  (void)grounder.Ground({.embedding = phrase}, 5, 0.5);
}

std::string GridOf(int64_t side, bool is_compressed, std::mt19937& random) {
  const Matrix cells = RowsOfThings(side * side, random);
  PartFeatures parts{.shape = {.grid_height = side,
                               .grid_width = side,
                               .width = 640,
                               .height = 480}};
  if (is_compressed) return EncodeParts(parts, CompressUnitRows(cells.view()));
  parts.features = QuantizeUnitRows(cells.view());
  return EncodeParts(parts);
}

void MeasureGrounding(int rounds, std::vector<Row>& rows) {
  std::mt19937 random(2);
  const std::vector<float> phrase = RandomQuery(random);
  for (const int64_t side : {7, 14}) {
    for (const bool is_compressed : {false, true}) {
      const std::string grid = GridOf(side, is_compressed, random);
      rows.push_back({absl::StrCat("a phrase in a grid of ", side, " x ", side,
                                   is_compressed ? ", compressed" : ""),
                      MedianMs(rounds, [&] { FindRegion(grid, phrase); }), "ms",
                      1});
    }
  }
  const Matrix cells = RowsOfThings(kCells, random);
  rows.push_back(
      {"compressing a grid of 7 x 7",
       MedianMs(rounds, [&] { (void)CompressUnitRows(cells.view()); }), "ms"});
  std::vector<std::string> grids;
  for (int i = 0; i < 100; ++i) grids.push_back(GridOf(7, false, random));
  rows.push_back({"a phrase in 100 grids of 7 x 7",
                  MedianMs(rounds,
                           [&] {
                             for (const std::string& grid : grids) {
                               FindRegion(grid, phrase);
                             }
                           }),
                  "ms", 15});

  constexpr int64_t kFrames = 300;
  const QuantizedFeatures kept =
      QuantizeUnitRows(RowsOfThings(kFrames, random).view());
  std::vector<double> times(kFrames);
  for (int64_t i = 0; i < kFrames; ++i) times[i] = 0.5 * static_cast<double>(i);
  rows.push_back(
      {"a sentence in 300 frames",
       MedianMs(rounds,
                [&] {
                  const Matrix frames = Dequantize(kept);
                  const SegmentGrounder grounder(
                      {.frames = frames.view(),
                       .times = times,
                       .duration = 0.5 * static_cast<double>(kFrames)});
                  (void)grounder.Ground(phrase, {});
                }),
       "ms", 1});
}

// A store of pictures alone.
class PictureStore {
 public:
  PictureStore(bool is_compressed, std::mt19937& random)
      : store_(ValueOrDie(RocksdbItemStore::Open(
            {.path = folder_.File("store"),
             .dimension = 1,
             .sync = SyncMode::kNever,
             .block_cache = CreateBlockCache(kBlockCacheBytes)}))) {
    // Some grids, each of many items: making them takes longer than all else.
    std::vector<std::string> grids;
    for (int i = 0; i < 100; ++i) {
      grids.push_back(GridOf(7, is_compressed, random));
    }
    std::vector<Item> items;
    for (int64_t i = 0; i < kItems; ++i) {
      ids_.push_back(absl::StrCat("picture", i));
      items.push_back({.id = ids_.back(),
                       .embedding = {1},
                       .parts = grids[i % grids.size()]});
      if (items.size() < 500) continue;
      (void)ValueOrDie(store_->Put(items));
      items.clear();
    }
  }

  const ItemStore& store() const { return *store_; }

  // A coarse search's hits.
  std::vector<ScoredId> Found(int64_t count, std::mt19937& random) const {
    std::vector<ScoredId> found;
    for (int64_t i = 0; i < count; ++i) {
      found.push_back(
          {ids_[random() % ids_.size()], 1 / static_cast<float>(i + 2)});
    }
    return found;
  }

 private:
  TemporaryDirectory folder_;
  std::unique_ptr<RocksdbItemStore> store_;
  std::vector<std::string> ids_;
};

void RerankOnce(const PictureStore& pictures, const PartScorer& scorer,
                const std::vector<ScoredId>& found) {
  static const RealClock kClock;
  const RequestContext context(&kClock, "fine_bench");
  const Reranked reranked = ValueOrDie(
      Rerank(context, {.depth = kCandidates}, scorer, pictures.store(), found));
  if (!reranked.degraded_reasons.empty()) {
    std::cerr << reranked.degraded_reasons.front() << "\n";
    std::exit(1);
  }
}

// Lists of `depth`, as many at once as there are threads.
std::vector<double> LoadMs(const PictureStore& pictures,
                           const PartScorer& scorer, int64_t depth,
                           int rounds) {
  std::vector<std::vector<double>> of_threads(kLoadThreads);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kLoadThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int round = 0; round < rounds; ++round) {
        const std::vector<ScoredId> found = pictures.Found(depth, random);
        of_threads[thread].push_back(
            1e3 * SecondsOf([&] { RerankOnce(pictures, scorer, found); }));
      }
    });
  }
  std::vector<double> ms;
  for (int thread = 0; thread < kLoadThreads; ++thread) {
    threads[thread].join();
    ms.insert(ms.end(), of_threads[thread].begin(), of_threads[thread].end());
  }
  return ms;
}

// The whole stage, with what it reads of the store.
void MeasureStage(bool is_compressed, int rounds, std::vector<Row>& rows) {
  std::mt19937 random(3);
  const PictureStore pictures(is_compressed, random);
  const PartScorer by_vector =
      ValueOrDie(PartScorer::BestPart(RandomQuery(random)));
  const PartScorer by_tokens = ValueOrDie(
      PartScorer::ByTokens(RandomRows(14, random).view(), RandomQuery(random)));
  const std::string form = is_compressed ? ", compressed" : "";
  const auto measure = [&](const PartScorer& scorer, const std::string& name) {
    std::vector<double> ms;
    for (int round = 0; round < rounds; ++round) {
      const std::vector<ScoredId> found = pictures.Found(kCandidates, random);
      ms.push_back(ProcessorMs([&] { RerankOnce(pictures, scorer, found); }));
    }
    rows.push_back({absl::StrCat("rerank 1,000 of a store", form, ", ", name),
                    Median(ms), "ms", 8});
  };
  measure(by_vector, "best part");
  measure(by_tokens, "14 tokens");
  const std::vector<double> ms = LoadMs(pictures, by_vector, 100, 10 * rounds);
  const std::string name = absl::StrCat("rerank 100 of a store", form, ", ",
                                        kLoadThreads, " at once, ");
  rows.push_back({absl::StrCat(name, "p50"), Median(ms), "ms"});
  rows.push_back({absl::StrCat(name, "p99"), Quantile(ms, 0.99), "ms"});
}

int Run(const std::vector<std::string>& only, int rounds,
        const std::string& json) {
  const auto wanted = [&only](const char* what) {
    return only.empty() ||
           std::find(only.begin(), only.end(), what) != only.end();
  };
  std::vector<Row> rows;
  for (const int64_t tokens : {1, 14}) {
    if (wanted("scores")) MeasureLateInteraction(tokens, rounds, rows);
  }
  if (wanted("grounding")) MeasureGrounding(rounds, rows);
  for (const bool is_compressed : {false, true}) {
    if (wanted("stage")) MeasureStage(is_compressed, rounds, rows);
  }
  Print(rows);
  if (!json.empty()) WriteJson(rows, json);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Measures the fine stage on one core");
  std::vector<std::string> only;
  std::string json;
  int rounds = 41;
  app.add_option("--only", only, "What to measure; may be repeated")
      ->check(CLI::IsMember({"scores", "grounding", "stage"}));
  app.add_option("--rounds", rounds, "Rounds")->check(CLI::Range(1, 10'000));
  app.add_option("--json", json, "Write the table as JSON to this file");
  CLI11_PARSE(app, argc, argv);
  return quern::Run(only, rounds, json);
}
