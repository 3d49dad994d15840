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

template <int64_t kLanes>
[[gnu::always_inline]] inline double Squares(const float* row, int64_t size) {
  Lanes<kLanes> squares = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      squares[lane] += row[i + lane] * row[i + lane];
    }
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) {
    squares[lane] += row[i] * row[i];
  }
  return Total<kLanes>(squares);
}

template <int64_t kLanes>
[[gnu::always_inline]] inline void Add(const float* __restrict row, float scale,
                                       float* __restrict sum, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sum[i + lane] += scale * row[i + lane];
    }
  }
  for (; i < size; ++i) sum[i] += scale * row[i];
}

struct Kernels {
  void (*map)(const MatrixView&, const float* query, float* scores);
  double (*squares)(const float* row, int64_t size);
  void (*add)(const float* row, float scale, float* sum, int64_t size);
};

void PortableMap(const MatrixView& cells, const float* query, float* scores) {
  MapOf<kPortableLanes>(cells, query, scores);
}
double PortableSquares(const float* row, int64_t size) {
  return Squares<kPortableLanes>(row, size);
}
void PortableAdd(const float* row, float scale, float* sum, int64_t size) {
  Add<kPortableLanes>(row, scale, sum, size);
}

#if defined(__x86_64__)
#define QUERN_AVX2 [[gnu::target("avx2,fma")]]
QUERN_AVX2 void Avx2Map(const MatrixView& cells, const float* query,
                        float* scores) {
  MapOf<32>(cells, query, scores);
}
QUERN_AVX2 double Avx2Squares(const float* row, int64_t size) {
  return Squares<32>(row, size);
}
QUERN_AVX2 void Avx2Add(const float* row, float scale, float* sum,
                        int64_t size) {
  Add<32>(row, scale, sum, size);
}

#define QUERN_AVX512 [[gnu::target("avx512f,prefer-vector-width=512")]]
QUERN_AVX512 void Avx512Map(const MatrixView& cells, const float* query,
                            float* scores) {
  MapOf<64>(cells, query, scores);
}
QUERN_AVX512 double Avx512Squares(const float* row, int64_t size) {
  return Squares<64>(row, size);
}
QUERN_AVX512 void Avx512Add(const float* row, float scale, float* sum,
                            int64_t size) {
  Add<64>(row, scale, sum, size);
}
#endif

Kernels BestKernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0) {
    return {Avx512Map, Avx512Squares, Avx512Add};
  }
  if (__builtin_cpu_supports("avx2") != 0 &&
      __builtin_cpu_supports("fma") != 0) {
    return {Avx2Map, Avx2Squares, Avx2Add};
  }
#endif
  return {PortableMap, PortableSquares, PortableAdd};
}

const Kernels& Best() {
  static const Kernels kKernels = BestKernels();
  return kKernels;
}

}  // namespace

double SquaredNorm(absl::Span<const float> row) {
  return Best().squares(row.data(), static_cast<int64_t>(row.size()));
}

void AddScaled(absl::Span<const float> row, float scale,
               absl::Span<float> sum) {
  Best().add(row.data(), scale, sum.data(), static_cast<int64_t>(sum.size()));
}

void CosineMap(const MatrixView& cells, absl::Span<const float> query,
               absl::Span<float> scores) {
  Best().map(cells, query.data(), scores.data());
}

double PooledCosine(const MatrixView& cells, absl::Span<const int64_t> rows,
                    absl::Span<const float> query) {
  std::vector<float> sum(query.size());
  for (const int64_t i : rows) {
    const absl::Span<const float> row = cells.row(i);
    const double norm = std::sqrt(SquaredNorm(row));
    if (norm == 0) continue;
    AddScaled(row, static_cast<float>(1 / norm), absl::MakeSpan(sum));
  }
  return Cosine<kPortableLanes>(sum.data(), query.data(), cells.columns);
}

}  // namespace quern
