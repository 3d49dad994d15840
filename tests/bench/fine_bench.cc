// What the fine stage takes on one core, features at hand. A table; the bound
// of the memory's speed is measured in turns with what it bounds.
//
//   fine_bench [--json FILE] [--rounds N]

#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

#include "engine/fine/item_parts.h"
#include "engine/fine/late_interaction.h"
#include "engine/fine/quantized_features.h"
#include "engine/query/part_grounder.h"
#include "tests/bench/bench.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 512;
constexpr int64_t kCandidates = 1000;
constexpr int64_t kCells = 49;
// Short lists that are scored in turns, so that none is in the caches.
constexpr int64_t kLists = 8;

Matrix RandomRows(int64_t rows, std::mt19937& random) {
  std::normal_distribution<float> value;
  Matrix matrix(rows, kDimension);
  for (int64_t i = 0; i < rows * kDimension; ++i) {
    matrix.data()[i] = value(random);
  }
  return matrix;
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
    read_ms.push_back(
        1e3 * SecondsOf([&] {
          uint64_t sum = 0;
          for (const QuantizedFeatures& cells : list) {
            const auto* words =
                reinterpret_cast<const uint64_t*>(cells.values.data());
            sum = std::accumulate(words, words + cells.values.size() / 8, sum);
          }
          kept += static_cast<double>(sum);
        }));
    const std::vector<QuantizedFeatures>& other =
        lists[(round + kLists / 2) % kLists];
    score_ms.push_back(1e3 * SecondsOf([&] {
                         const LateInteraction scorer =
                             ValueOrDie(LateInteraction::Create(tokens.view()));
                         for (const QuantizedFeatures& cells : other)
                           kept += scorer.Score(cells);
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

PartFeatures RandomParts(const PartsShape& shape, std::mt19937& random) {
  PartFeatures parts{.shape = shape};
  for (int64_t i = 0; i < shape.frames; ++i) {
    parts.times.push_back(absl::Milliseconds(500) * i);
    parts.samples.push_back(1);
  }
  parts.shape.duration = absl::Milliseconds(500) * shape.frames;
  const int64_t rows = shape.frames + shape.grid_height * shape.grid_width;
  parts.features = QuantizeUnitRows(RandomRows(rows, random).view());
  return parts;
}

// What a search for regions or segments does with each item of its short list:
// from the store's bytes to the parts.
void MeasureGrounding(const std::string& name, const PartsShape& shape,
                      int rounds, std::vector<Row>& rows) {
  constexpr int64_t kItems = 100;
  std::mt19937 random(1);
  std::vector<std::string> items;
  for (int64_t i = 0; i < kItems; ++i) {
    items.push_back(EncodeParts(RandomParts(shape, random)));
  }
  const Matrix query = RandomRows(1, random);
  std::vector<float> unit = {query.data(), query.data() + kDimension};
  const double norm = std::sqrt(
      std::inner_product(unit.begin(), unit.end(), unit.begin(), 0.0));
  for (float& value : unit) value = static_cast<float>(value / norm);
  const PartGrounder grounder = shape.frames > 0
                                    ? PartGrounder::Segments(unit, {})
                                    : PartGrounder::Regions({{unit}}, {});
  std::vector<double> item_ms;
  size_t found = 0;
  for (int round = 0; round < rounds; ++round) {
    item_ms.push_back(
        1e3 / kItems * SecondsOf([&] {
          for (const std::string& item : items) {
            found +=
                grounder.Ground(ValueOrDie(DecodeParts(item))).evidence.size();
          }
        }));
  }
  if (found == 0) std::cerr << "nothing was found\n";
  rows.push_back(
      {absl::StrCat("a text in ", name, ", one item"), Median(item_ms), "ms"});
}

int Run(int rounds, const std::string& json) {
  std::vector<Row> rows;
  for (const int64_t tokens : {1, 14}) {
    MeasureLateInteraction(tokens, rounds, rows);
  }
  MeasureGrounding("7 x 7 cells", {.grid_height = 7, .grid_width = 7}, rounds,
                   rows);
  MeasureGrounding("14 x 14 cells", {.grid_height = 14, .grid_width = 14},
                   rounds, rows);
  MeasureGrounding("40 frames", {.frames = 40}, rounds, rows);
  MeasureGrounding("300 frames", {.frames = 300}, rounds, rows);
  Print(rows);
  if (!json.empty()) WriteJson(rows, json);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Measures the fine stage on one core");
  std::string json;
  int rounds = 41;
  app.add_option("--json", json, "Write the table as JSON to this file");
  app.add_option("--rounds", rounds, "Rounds")->check(CLI::Range(1, 10'000));
  CLI11_PARSE(app, argc, argv);
  return quern::Run(rounds, json);
}
