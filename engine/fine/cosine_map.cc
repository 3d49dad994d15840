#include "engine/fine/cosine_map.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace quern {
namespace {

// Lanes that add up independently: without them the order of the additions
// would forbid vector instructions, and with fewer each would wait for the one
// before it.
constexpr int64_t kPortableLanes = 16;
template <int64_t kLanes>
using Lanes = std::array<float, kLanes>;

// Halves are added to each other as long as they fill a register.
template <int64_t kLanes>
[[gnu::always_inline]] inline double Total(const Lanes<kLanes>& lanes) {
  if constexpr (kLanes > 8) {
    Lanes<kLanes / 2> halves;
    for (int64_t lane = 0; lane < kLanes / 2; ++lane) {
      halves[lane] = lanes[lane] + lanes[lane + kLanes / 2];
    }
    return Total<kLanes / 2>(halves);
  } else {
    double total = 0;
    for (const float lane : lanes) total += lane;
    return total;
  }
}

template <int64_t kLanes>
[[gnu::always_inline]] inline float Cosine(const float* row, const float* query,
                                           int64_t size) {
  Lanes<kLanes> products = {};
  Lanes<kLanes> squares = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = row[i + lane];
      products[lane] += value * query[i + lane];
      squares[lane] += value * value;
    }
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) {
    products[lane] += row[i] * query[i];
    squares[lane] += row[i] * row[i];
  }
  const double norm = std::sqrt(Total<kLanes>(squares));
  return norm > 0 ? static_cast<float>(Total<kLanes>(products) / norm) : 0;
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void MapOf(const MatrixView& cells,
                                         const float* query, float* scores) {
  for (int64_t i = 0; i < cells.rows; ++i) {
    scores[i] =
        Cosine<kLanes>(cells.data + i * cells.columns, query, cells.columns);
  }
}

using Map = void (*)(const MatrixView&, const float*, float*);

void PortableMap(const MatrixView& cells, const float* query, float* scores) {
  MapOf<kPortableLanes>(cells, query, scores);
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void Avx2Map(const MatrixView& cells,
                                         const float* query, float* scores) {
  MapOf<32>(cells, query, scores);
}

[[gnu::target("avx512f,prefer-vector-width=512")]] void Avx512Map(
    const MatrixView& cells, const float* query, float* scores) {
  MapOf<64>(cells, query, scores);
}
#endif

Map BestMap() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0) return Avx512Map;
  if (__builtin_cpu_supports("avx2") != 0 &&
      __builtin_cpu_supports("fma") != 0) {
    return Avx2Map;
  }
#endif
  return PortableMap;
}

double SquaredNorm(absl::Span<const float> row) {
  Lanes<kPortableLanes> squares = {};
  size_t i = 0;
  for (; i + kPortableLanes <= row.size(); i += kPortableLanes) {
    for (int64_t lane = 0; lane < kPortableLanes; ++lane) {
      squares[lane] += row[i + lane] * row[i + lane];
    }
  }
  for (int64_t lane = 0; i < row.size(); ++i, ++lane) {
    squares[lane] += row[i] * row[i];
  }
  return Total<kPortableLanes>(squares);
}

}  // namespace

void CosineMap(const MatrixView& cells, absl::Span<const float> query,
               absl::Span<float> scores) {
  static const Map kMap = BestMap();
  kMap(cells, query.data(), scores.data());
}

double PooledCosine(const MatrixView& cells, absl::Span<const int64_t> rows,
                    absl::Span<const float> query) {
  std::vector<float> sum(query.size());
  for (const int64_t i : rows) {
    const absl::Span<const float> row = cells.row(i);
    const double norm = std::sqrt(SquaredNorm(row));
    if (norm == 0) continue;
    const auto scale = static_cast<float>(1 / norm);
    for (size_t j = 0; j < row.size(); ++j) sum[j] += scale * row[j];
  }
  return Cosine<kPortableLanes>(sum.data(), query.data(), cells.columns);
}

}  // namespace quern
