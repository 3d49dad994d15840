#include "engine/index/ivf_pq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "faiss/IndexFlat.h"
#include "faiss/IndexIVFPQFastScan.h"
#include "faiss/impl/pq4_fast_scan.h"
#include "faiss/invlists/BlockInvertedLists.h"
#include <omp.h>

#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/index/plain_bytes.h"

namespace quern {
namespace {

using idx_t = faiss::Index::idx_t;

constexpr absl::string_view kLibrary = "FAISS";
constexpr int64_t kBits = 4;
constexpr int64_t kBlockRows = 32;
constexpr int64_t kEncodeRows = 4096;
// From 20 on FAISS compares queries with centres by BLAS, whose sums are
// others: a query would find other lists among many than alone.
constexpr int64_t kQueriesAtOnce = 16;
// Compared between two looks at the deadline, by estimate, unless one query
// takes more: FAISS cannot be stopped, nor given a part of a query's lists.
constexpr int64_t kCodesPerCheck = 1 << 22;
constexpr int64_t kTrainRowsPerList = 64;
constexpr int64_t kMaxLists = 65'536;

// What the bytes begin with.
struct Head {
  uint64_t lists = 0;
  uint64_t parts = 0;  // Of a vector, each with a code of its own.
};

// Values per code: a whole part of the dimension.
int64_t PartsOf(int64_t dimension) {
  for (const int64_t values : {8, 4, 2}) {
    if (dimension % values == 0 && dimension / values >= 16) {
      return dimension / values;
    }
  }
  return dimension;
}

// Balances comparing with the lists' centres and with their rows.
int64_t ListsFor(int64_t rows) {
  const auto lists = static_cast<int64_t>(
      2 * std::sqrt(static_cast<double>(std::max<int64_t>(rows, 1))));
  return std::clamp<int64_t>(lists, 1, kMaxLists);
}

absl::Status Damaged() {
  return absl::DataLossError("inverted lists are damaged");
}

}  // namespace

struct IvfPq::State {
  State(int64_t dimension, int64_t list_count, int64_t parts)
      : centres(dimension), lists(list_count) {
    index = std::make_unique<faiss::IndexIVFPQFastScan>(
        &centres, dimension, list_count, parts, kBits,
        faiss::METRIC_INNER_PRODUCT, kBlockRows);
    index->by_residual = true;
  }

  // The number of lists to probe is a member in FAISS: a shallow copy of the
  // index for each power of two lets searches run side by side.
  void MakeProbes() {
    for (int64_t probed = 1;; probed = std::min(probed * 2, lists)) {
      auto copy = std::make_unique<faiss::IndexIVFPQFastScan>(*index);
      copy->own_invlists = false;
      copy->own_fields = false;
      copy->nprobe = probed;
      probes.push_back(std::move(copy));
      if (probed == lists) return;
    }
  }

  faiss::IndexFlatIP centres;
  const int64_t lists;
  int64_t bytes = 0;
  std::unique_ptr<faiss::IndexIVFPQFastScan> index;
  std::vector<std::unique_ptr<const faiss::IndexIVFPQFastScan>> probes;
};

IvfPq::IvfPq(std::unique_ptr<const State> state) : state_(std::move(state)) {}
IvfPq::~IvfPq() = default;

int64_t IvfPq::lists() const { return state_->lists; }
int64_t IvfPq::memory_bytes() const { return state_->bytes; }

void IvfPq::CopyLists(Matrix* centres, std::vector<uint32_t>* list_of) const {
  const faiss::IndexIVFPQFastScan& index = *state_->index;
  *centres = Matrix(state_->lists, index.d);
  std::copy_n(state_->centres.get_xb(), state_->lists * index.d,
              centres->data());
  list_of->assign(index.ntotal, 0);
  for (int64_t list = 0; list < state_->lists; ++list) {
    const idx_t* rows = index.invlists->get_ids(list);
    const size_t size = index.invlists->list_size(list);
    for (size_t i = 0; i < size; ++i) {
      (*list_of)[rows[i]] = static_cast<uint32_t>(list);
    }
  }
}

size_t IvfPq::MaxBytes(int64_t rows, int64_t dimension,
                       const IvfPqOptions& options) {
  const int64_t lists =
      std::min(options.lists > 0 ? options.lists : ListsFor(rows), rows);
  const int64_t code_bytes = (PartsOf(dimension) + 1) / 2;
  return sizeof(Head) + (lists + (1 << kBits)) * dimension * sizeof(float) +
         (lists + rows) * sizeof(uint32_t) + rows * code_bytes;
}

absl::StatusOr<std::string> IvfPq::Build(
    int64_t rows, int64_t dimension,
    const std::function<void(int64_t, absl::Span<float>)>& read,
    const IvfPqOptions& options, const std::function<absl::Status()>& check) {
  return Guard(kLibrary, [&]() -> absl::StatusOr<std::string> {
    omp_set_num_threads(1);
    const int64_t lists =
        std::min(options.lists > 0 ? options.lists : ListsFor(rows), rows);
    State state(dimension, lists, PartsOf(dimension));
    faiss::IndexIVFPQFastScan& index = *state.index;
    index.cp.seed = static_cast<int>(options.seed & 0x7FFFFFFF);
    index.cp.niter = 10;
    index.cp.min_points_per_centroid = 1;
    index.pq.cp.seed = index.cp.seed;
    index.pq.cp.min_points_per_centroid = 1;

    const int64_t sample =
        std::min(rows, std::max<int64_t>(lists * kTrainRowsPerList, 16'384));
    std::vector<float> values(sample * dimension);
    std::mt19937_64 random(options.seed);
    for (int64_t i = 0; i < sample; ++i) {
      // Evenly over the rows, each at most once.
      const int64_t begin = i * rows / sample;
      const int64_t width =
          std::max<int64_t>((i + 1) * rows / sample - begin, 1);
      read(begin + static_cast<int64_t>(random() % width),
           {values.data() + i * dimension, static_cast<size_t>(dimension)});
    }
    QUERN_RETURN_IF_ERROR(check());
    index.train(sample, values.data());

    const size_t code_bytes = (index.pq.M + 1) / 2;
    std::vector<std::vector<uint32_t>> list_rows(lists);
    std::vector<std::string> list_codes(lists);
    values.resize(kEncodeRows * dimension);
    std::vector<idx_t> list_of(kEncodeRows);
    std::vector<uint8_t> codes(kEncodeRows * code_bytes);
    for (int64_t begin = 0; begin < rows; begin += kEncodeRows) {
      QUERN_RETURN_IF_ERROR(check());
      const int64_t count = std::min(kEncodeRows, rows - begin);
      for (int64_t i = 0; i < count; ++i) {
        read(begin + i,
             {values.data() + i * dimension, static_cast<size_t>(dimension)});
      }
      state.centres.assign(count, values.data(), list_of.data());
      index.encode_vectors(count, values.data(), list_of.data(), codes.data());
      for (int64_t i = 0; i < count; ++i) {
        list_rows[list_of[i]].push_back(static_cast<uint32_t>(begin + i));
        AppendValues(codes.data() + i * code_bytes, code_bytes,
                     &list_codes[list_of[i]]);
      }
    }
    std::string bytes;
    const Head head{static_cast<uint64_t>(lists), index.pq.M};
    AppendValues(&head, 1, &bytes);
    AppendValues(state.centres.get_xb(), lists * dimension, &bytes);
    AppendValues(index.pq.centroids.data(), index.pq.centroids.size(), &bytes);
    for (const auto& of_list : list_rows) {
      const auto size = static_cast<uint32_t>(of_list.size());
      AppendValues(&size, 1, &bytes);
    }
    for (int64_t list = 0; list < lists; ++list) {
      AppendValues(list_rows[list].data(), list_rows[list].size(), &bytes);
      bytes += list_codes[list];
    }
    return bytes;
  });
}

absl::StatusOr<std::unique_ptr<const IvfPq>> IvfPq::Parse(
    absl::Span<const uint8_t> bytes, int64_t rows, int64_t dimension) {
  using Result = absl::StatusOr<std::unique_ptr<const IvfPq>>;
  return Guard(kLibrary, [&]() -> Result {
    PlainReader reader(bytes);
    Head head;
    if (!reader.Read(&head) || head.lists < 1 || head.lists > kMaxLists ||
        head.parts != static_cast<uint64_t>(PartsOf(dimension))) {
      return Damaged();
    }
    const auto lists = static_cast<int64_t>(head.lists);
    std::vector<float> centres;
    std::vector<float> centroids;
    std::vector<uint32_t> sizes;
    if (!reader.Read(lists * dimension, &centres) ||
        !reader.Read((uint64_t{1} << kBits) * dimension, &centroids) ||
        !reader.Read(lists, &sizes)) {
      return Damaged();
    }
    auto state = std::make_unique<State>(dimension, lists, head.parts);
    state->centres.add(lists, centres.data());
    faiss::IndexIVFPQFastScan& index = *state->index;
    index.pq.centroids = std::move(centroids);
    index.is_trained = true;

    const size_t code_bytes = (index.pq.M + 1) / 2;
    const size_t block_bytes = kBlockRows * index.M2 / 2;
    auto blocks = std::make_unique<faiss::BlockInvertedLists>(lists, kBlockRows,
                                                              block_bytes);
    std::vector<bool> seen(rows);
    std::vector<uint32_t> list_rows;
    std::vector<uint8_t> codes;
    int64_t total = 0;
    for (int64_t list = 0; list < lists; ++list) {
      const uint64_t size = sizes[list];
      if (!reader.Read(size, &list_rows) ||
          !reader.Read(size * code_bytes, &codes)) {
        return Damaged();
      }
      for (const uint32_t row : list_rows) {
        if (row >= rows || seen[row]) return Damaged();
        seen[row] = true;
      }
      total += static_cast<int64_t>(size);
      if (size == 0) continue;
      const size_t padded = (size + kBlockRows - 1) / kBlockRows * kBlockRows;
      faiss::AlignedTable<uint8_t> packed(padded / kBlockRows * block_bytes);
      faiss::pq4_pack_codes(codes.data(), size, index.M, padded, kBlockRows,
                            index.M2, packed.get());
      const std::vector<idx_t> ids(list_rows.begin(), list_rows.end());
      blocks->add_entries(list, size, ids.data(), packed.get());
      state->bytes +=
          static_cast<int64_t>(packed.size() + size * sizeof(idx_t));
    }
    if (total != rows || !reader.at_end()) return Damaged();
    state->bytes += static_cast<int64_t>(centres.size() * sizeof(float));
    index.replace_invlists(blocks.release(), /*own=*/true);
    index.ntotal = rows;
    state->MakeProbes();
    return std::unique_ptr<const IvfPq>(new IvfPq(std::move(state)));
  });
}

absl::StatusOr<std::vector<std::vector<uint32_t>>> IvfPq::Search(
    MatrixView queries, int64_t lists, int64_t depth,
    const std::function<absl::Status()>& check) const {
  using Result = absl::StatusOr<std::vector<std::vector<uint32_t>>>;
  return Guard(kLibrary, [&]() -> Result {
    omp_set_num_threads(1);
    const auto& probes = state_->probes;
    size_t probe = 0;
    while (probe + 1 < probes.size() &&
           static_cast<int64_t>(probes[probe]->nprobe) < lists) {
      ++probe;
    }
    depth = std::min<int64_t>(depth, probes[probe]->ntotal);
    std::vector<float> scores(queries.rows * depth);
    std::vector<idx_t> labels(queries.rows * depth, -1);
    const auto probed = static_cast<int64_t>(probes[probe]->nprobe);
    const int64_t codes = probes[probe]->ntotal / state_->lists * probed + 1;
    const int64_t at_once =
        std::clamp<int64_t>(kCodesPerCheck / codes, 1, kQueriesAtOnce);
    for (int64_t first = 0; first < queries.rows; first += at_once) {
      QUERN_RETURN_IF_ERROR(check());
      probes[probe]->search(
          std::min(at_once, queries.rows - first), queries.row(first).data(),
          depth, scores.data() + first * depth, labels.data() + first * depth);
    }
    std::vector<std::vector<uint32_t>> found(queries.rows);
    for (int64_t i = 0; i < queries.rows; ++i) {
      found[i].reserve(depth);
      for (int64_t j = 0; j < depth; ++j) {
        const idx_t label = labels[i * depth + j];
        if (label >= 0) found[i].push_back(static_cast<uint32_t>(label));
      }
    }
    return found;
  });
}

}  // namespace quern
