// The index alone, in process and on one thread, beside FAISS's own HNSW at the
// same recall: build time, recall, processor time a query, memory, also after
// items were written again; and how long an exact search takes alone and with a
// crew.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "faiss/IndexHNSW.h"
#include <omp.h>

#include "engine/base/clock.h"
#include "engine/index/kernels.h"
#include "engine/index/sharded_index.h"
#include "tests/bench/bench.h"
#include "tests/index/clustered_vectors.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 512;
// Embeddings fill few of their dimensions: clusters are made in so many and
// turned into kDimension.
constexpr int64_t kLatent = 48;
constexpr int64_t kRowsPerCentre = 100;
constexpr int64_t kUpsertRows = 1000;
constexpr int64_t kK = 10;
constexpr int64_t kBatch = 64;
constexpr int64_t kExactQueries = 128;
constexpr float kTargets[] = {0.95F, 0.99F};

struct Options {
  int64_t items = 100'000;
  int64_t queries = 1000;
  int rounds = 3;
  int threads = 2;
  int churn = 0;
  std::string json;
  std::vector<std::string> kinds = {"exact_int8", "hnsw_fp32", "hnsw_int8",
                                    "ivf_pq_int8"};
  bool skip_faiss = false;
};

using Answers = std::vector<std::vector<int64_t>>;

double ThreadCpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) +
         1e-9 * static_cast<double>(time.tv_nsec);
}

Matrix MakeVectors(int64_t rows, int64_t items, unsigned seed) {
  const Matrix latent = ClusteredVectors(
      rows, kLatent, std::max<int64_t>(items / kRowsPerCentre, 1), seed);
  std::mt19937 random(9);  // The same turn for items and queries.
  std::normal_distribution<float> normal;
  std::vector<float> turn(kLatent * kDimension);
  for (float& value : turn) value = normal(random);
  Matrix vectors(rows, kDimension);
  for (int64_t i = 0; i < rows; ++i) {
    float* const out = vectors.row(i).data();
    for (int64_t j = 0; j < kLatent; ++j) {
      const float factor = latent.row(i)[j];
      for (int64_t d = 0; d < kDimension; ++d) {
        out[d] += factor * turn[j * kDimension + d];
      }
    }
    const float norm = std::sqrt(InnerProduct(out, out, kDimension));
    for (int64_t d = 0; d < kDimension; ++d) out[d] /= norm;
  }
  return vectors;
}

Answers ExactAnswers(const Matrix& items, const Matrix& queries) {
  Answers answers(queries.rows());
  std::vector<std::vector<std::pair<float, int64_t>>> best(queries.rows());
  // Items in the cache for all queries.
  constexpr int64_t kTile = 256;
  for (int64_t tile = 0; tile < items.rows(); tile += kTile) {
    for (int64_t q = 0; q < queries.rows(); ++q) {
      for (int64_t i = tile; i < std::min(tile + kTile, items.rows()); ++i) {
        best[q].emplace_back(-InnerProduct(items.row(i).data(),
                                           queries.row(q).data(), kDimension),
                             i);
      }
      const int64_t kept = std::min(kK, static_cast<int64_t>(best[q].size()));
      std::partial_sort(best[q].begin(), best[q].begin() + kept, best[q].end());
      best[q].resize(std::min<size_t>(best[q].size(), kK));
    }
  }
  for (int64_t q = 0; q < queries.rows(); ++q) {
    for (const auto& [score, row] : best[q]) answers[q].push_back(row);
  }
  return answers;
}

double Recall(const Answers& found, const Answers& truth) {
  int64_t right = 0;
  for (size_t q = 0; q < truth.size(); ++q) {
    for (const int64_t row : truth[q]) {
      right += std::count(found[q].begin(), found[q].end(), row);
    }
  }
  return static_cast<double>(right) /
         static_cast<double>(truth.size() * truth[0].size());
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        items_(MakeVectors(options.items, options.items, 2)),
        queries_(MakeVectors(options.queries, options.items, 3)),
        truth_(ExactAnswers(items_, queries_)) {}

  std::vector<Row> Run() {
    if (!options_.skip_faiss) MeasureFaiss();
    for (const std::string& kind : options_.kinds) MeasureKind(kind);
    return rows_;
  }

 private:
  // The median over rounds, in microseconds a query.
  template <typename Search>
  double CpuOf(const Search& search) {
    std::vector<double> rounds;
    for (int round = 0; round < options_.rounds; ++round) {
      const double start = ThreadCpuSeconds();
      for (int64_t q = 0; q < queries_.rows(); ++q) search(q);
      rounds.push_back(1e6 * (ThreadCpuSeconds() - start) /
                       static_cast<double>(queries_.rows()));
    }
    return Median(rounds);
  }

  void Add(const std::string& measure, double value, const std::string& unit) {
    rows_.push_back({.measure = measure, .value = value, .unit = unit});
  }

  void MeasureFaiss() {
    omp_set_num_threads(options_.threads);
    faiss::IndexHNSWFlat index(kDimension, 16, faiss::METRIC_INNER_PRODUCT);
    index.hnsw.efConstruction = 128;
    Add("faiss hnsw: build",
        SecondsOf([&] { index.add(items_.rows(), items_.data()); }), "s");
    omp_set_num_threads(1);
    for (const float target : kTargets) {
      Answers found(queries_.rows());
      const auto search = [&](int64_t q) {
        std::vector<float> scores(kK);
        found[q].resize(kK);
        index.search(1, queries_.row(q).data(), kK, scores.data(),
                     found[q].data());
      };
      double recall = 0;
      int beam = 10;
      for (; beam <= 2048; beam += std::max(2, beam / 8)) {
        index.hnsw.efSearch = beam;
        for (int64_t q = 0; q < queries_.rows(); ++q) search(q);
        recall = Recall(found, truth_);
        if (recall >= target) break;
      }
      const std::string name = absl::StrCat("faiss hnsw at ", target);
      Add(name + ": recall@10", recall, "");
      Add(name + ": beam", beam, "");
      Add(name + ": cpu a query", CpuOf(search), "us");
    }
  }

  void MeasureKind(const std::string& kind) {
    ShardedIndexOptions options{.dimension = kDimension,
                                .optimize_threads = options_.threads};
    options.kind = kind.starts_with("exact")  ? IndexKind::kExact
                   : kind.starts_with("hnsw") ? IndexKind::kHnsw
                                              : IndexKind::kIvfPq;
    options.storage =
        kind.ends_with("int8") ? VectorStorage::kInt8 : VectorStorage::kFp32;
    options.min_ann_rows = 1000;
    const TemporaryDirectory files;
    options.directory = files.File("index");
    // As if the store had every vector in its cache.
    options.reader =
        [this](
            absl::Span<const std::string> ids,
            const std::function<void(size_t, absl::Span<const float>)>& visit) {
          for (size_t i = 0; i < ids.size(); ++i) {
            int64_t row = 0;
            if (absl::SimpleAtoi(ids[i], &row)) visit(i, items_.row(row));
          }
          return absl::OkStatus();
        };
    const auto index = ValueOrDie(ShardedIndex::Create(options));
    for (int64_t first = 0; first < items_.rows(); first += kUpsertRows) {
      const int64_t count = std::min(kUpsertRows, items_.rows() - first);
      std::vector<std::string> ids;
      for (int64_t i = 0; i < count; ++i) {
        ids.push_back(absl::StrCat(first + i));
      }
      CheckOk(index->Upsert(ids, {.data = items_.row(first).data(),
                                  .rows = count,
                                  .columns = kDimension}));
    }
    Add(kind + ": build", Optimize(*index), "s");
    const ShardInfo shard = index->shards().at(0);
    if (!shard.message.empty()) {
      std::cerr << kind << ": " << shard.message << "\n";
    }
    Add(kind + ": recall@10 in its status", *shard.measured_recall, "");
    Add(kind + ": memory",
        static_cast<double>(index->memory_bytes()) /
            static_cast<double>(items_.rows() * kDimension * sizeof(float)),
        "of fp32");
    MeasureTargets(kind, *index);
    if (options_.churn > 0) MeasureChurn(kind, *index);
    MeasureCrew(kind, *index, options);
  }

  // A quarter of the items, chosen at random, is written again and sealed, some
  // times over.
  void MeasureChurn(const std::string& kind, ShardedIndex& index) {
    std::mt19937 random(5);
    std::vector<double> seconds;
    for (int round = 0; round < options_.churn; ++round) {
      for (int64_t i = 0; i < items_.rows(); ++i) {
        if (random() % 4 != 0) continue;
        CheckOk(index.Upsert(
            {absl::StrCat(i)},
            {.data = items_.row(i).data(), .rows = 1, .columns = kDimension}));
      }
      seconds.push_back(Optimize(index));
    }
    const std::string name =
        absl::StrCat(kind, ", a quarter written again ", options_.churn, "x");
    Add(name + ": seal", Median(seconds), "s");
    MeasureTargets(name, index);
  }

  static double Optimize(ShardedIndex& index) {
    const RealClock clock;
    const RequestContext context(&clock, "bench");
    return SecondsOf([&] { CheckOk(index.Optimize(context, [](float) {})); });
  }

  void MeasureTargets(const std::string& prefix, const ShardedIndex& index) {
    const RealClock clock;
    const RequestContext context(&clock, "bench");
    for (const float target : kTargets) {
      Answers found(queries_.rows());
      const auto search = [&](int64_t q) {
        const auto lists = index.Search(
            context,
            {.data = queries_.row(q).data(), .rows = 1, .columns = kDimension},
            {.k = kK, .recall = target});
        found[q].clear();
        for (const ScoredId& hit : lists->front()) {
          found[q].push_back(std::stoll(hit.id));
        }
      };
      for (int64_t q = 0; q < queries_.rows(); ++q) search(q);
      const std::string name = absl::StrCat(prefix, " at ", target);
      Add(name + ": recall@10", Recall(found, truth_), "");
      Add(name + ": cpu a query", CpuOf(search), "us");
      Add(name + ": cpu a query in a batch of 64", BatchCpu(index, target),
          "us");
    }
  }

  // Exact searches, in turns; times, since it is them that a crew is for.
  void MeasureCrew(const std::string& kind, const ShardedIndex& alone,
                   ShardedIndexOptions options) {
    options.crew = std::make_shared<WorkCrew>(
        WorkCrewOptions{.threads = options_.threads - 1});
    const auto together = ValueOrDie(ShardedIndex::Create(options));
    const RealClock clock;
    const RequestContext context(&clock, "bench");
    const auto ms_of = [&](const ShardedIndex& index, int64_t rows) {
      std::vector<double> ms;
      const int64_t asked = std::min(queries_.rows(), kExactQueries);
      for (int64_t q = 0; q + rows <= asked; q += rows) {
        ms.push_back(1e3 * SecondsOf([&] {
                       CheckOk(index
                                   .Search(context,
                                           {.data = queries_.row(q).data(),
                                            .rows = rows,
                                            .columns = kDimension},
                                           {.k = kK, .exact = true})
                                   .status());
                     }));
      }
      return Median(ms);
    };
    for (const int64_t rows : {int64_t{1}, kBatch}) {
      std::vector<double> one, more, ratio;
      for (int round = 0; round < options_.rounds; ++round) {
        one.push_back(ms_of(alone, rows));
        more.push_back(ms_of(*together, rows));
        ratio.push_back(more.back() / one.back());
      }
      const std::string name =
          absl::StrCat(kind, ", exact, ", rows, " at once");
      Add(name + ": on one thread", Median(one), "ms");
      Add(absl::StrCat(name, ": on ", options_.threads), Median(more), "ms");
      Add(name + ": over one thread", Median(ratio), "");
    }
  }

  double BatchCpu(const ShardedIndex& index, float target) {
    const RealClock clock;
    const RequestContext context(&clock, "bench");
    const double start = ThreadCpuSeconds();
    int64_t asked = 0;
    for (int64_t q = 0; q + kBatch <= queries_.rows(); q += kBatch) {
      CheckOk(index
                  .Search(context,
                          {.data = queries_.row(q).data(),
                           .rows = kBatch,
                           .columns = kDimension},
                          {.k = kK, .recall = target})
                  .status());
      asked += kBatch;
    }
    return 1e6 * (ThreadCpuSeconds() - start) /
           static_cast<double>(std::max<int64_t>(asked, 1));
  }

  static void CheckOk(const absl::Status& status) {
    if (status.ok()) return;
    std::cerr << status << "\n";
    std::exit(1);
  }

  const Options options_;
  const Matrix items_;
  const Matrix queries_;
  const Answers truth_;
  std::vector<Row> rows_;
};

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Searches of the index alone, beside FAISS's HNSW");
  quern::Options options;
  app.add_option("--items", options.items, "Vectors in the index")
      ->check(CLI::Range(2000, 100'000'000))
      ->capture_default_str();
  app.add_option("--queries", options.queries, "Queries of each round")
      ->check(CLI::Range(64, 100'000))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Rounds; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--threads", options.threads,
                 "Threads that build a graph, or help an exact search")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--kind", options.kinds, "Leave out the rest; repeatable")
      ->check(CLI::IsMember({"exact_int8", "exact_fp32", "hnsw_fp32",
                             "hnsw_int8", "ivf_pq_int8"}));
  app.add_option("--churn", options.churn,
                 "Rounds in which a quarter of the items is written again")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_flag("--skip-faiss", options.skip_faiss, "Leave out FAISS's HNSW");
  app.add_option("--json", options.json, "File to write the rows to");
  CLI11_PARSE(app, argc, argv);
  const std::vector<quern::Row> rows = quern::Bench(options).Run();
  quern::Print(rows);
  if (!options.json.empty()) quern::WriteJson(rows, options.json);
  return 0;
}
