#include "engine/fine/byte_products.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12's own AVX-512 header warns of what it leaves undefined on purpose (its
// bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#define QUERN_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#endif

// Three kernels, each with its own order of the queries' bytes. The processor's
// instructions multiply bytes with a sign by bytes without one, so one side has
// 128 added, which is taken off the sums again.
//
//   few   up to kFew queries, AVX-512 VNNI: a register holds 64 numbers of a
//         row, 128 added, and is multiplied by those of each query; 128 times
//         the query's sum is known beforehand.
//   many  more queries, AVX-512 VNNI: a register holds four numbers of each of
//         16 queries, 128 added, and is multiplied by the same four of a row.
//         So sums need not be added up across a register, which would take as
//         long as the products. A query of ones tells the sum of the row.
//   any   what compilers make of a loop: likewise with a query of ones.

namespace quern {
namespace {

constexpr int32_t kOffset = 128;
constexpr int64_t kFew = 3;
constexpr int64_t kRegister = 64;  // Bytes.
constexpr int64_t kLanes = 16;     // Sums of a register.
constexpr int64_t kTile = 4;       // Queries and rows at once of "any".

int64_t RoundUp(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

// --- few ---

#if defined(__x86_64__)

// The sum of each of the four registers.
QUERN_AVX512 inline __m128i SumsOf(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b),
                                      _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d),
                                      _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd),
                                       _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all),
                                        _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half),
                       _mm256_extracti128_si256(half, 1));
}

// kRows rows, at most four, with all queries.
template <int kQueries, int kRows>
QUERN_AVX512 inline void MultiplyFew(const int8_t* rows, int64_t dimension,
                                     const uint8_t* queries,
                                     const int32_t* offsets,
                                     int32_t* products) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(kOffset));
  const int64_t padded = RoundUp(dimension, kRegister);
  __m512i sums[kQueries][4];
  for (auto& of_query : sums) {
    for (__m512i& sum : of_query) sum = _mm512_setzero_si512();
  }
  const auto add = [&](int64_t at, __mmask64 kept) __attribute__((
      target("avx512f,avx512bw,avx512vl,avx512vnni"), always_inline)) {
    __m512i values[kRows];
    for (int row = 0; row < kRows; ++row) {
      values[row] = _mm512_xor_si512(
          _mm512_maskz_loadu_epi8(kept, rows + row * dimension + at), sign);
    }
    for (int query = 0; query < kQueries; ++query) {
      const __m512i others = _mm512_loadu_si512(queries + query * padded + at);
      for (int row = 0; row < kRows; ++row) {
        sums[query][row] =
            _mm512_dpbusd_epi32(sums[query][row], values[row], others);
      }
    }
  };
  int64_t at = 0;
  for (; at + kRegister <= dimension; at += kRegister) {
    add(at, ~__mmask64{0});
  }
  if (at < dimension) add(at, (__mmask64{1} << (dimension - at)) - 1);
  for (int query = 0; query < kQueries; ++query) {
    alignas(16) int32_t of_rows[4];
    _mm_store_si128(
        reinterpret_cast<__m128i*>(of_rows),
        SumsOf(sums[query][0], sums[query][1], sums[query][2], sums[query][3]));
    for (int row = 0; row < kRows; ++row) {
      products[row * kQueries + query] = of_rows[row] - offsets[query];
    }
  }
}

template <int kQueries>
QUERN_AVX512 void FewVnni(const int8_t* rows, int64_t row_count,
                          int64_t dimension, const uint8_t* queries,
                          const int32_t* offsets, int32_t* products) {
  int64_t row = 0;
  for (; row + 4 <= row_count; row += 4) {
    MultiplyFew<kQueries, 4>(rows + row * dimension, dimension, queries,
                             offsets, products + row * kQueries);
  }
  for (; row < row_count; ++row) {
    MultiplyFew<kQueries, 1>(rows + row * dimension, dimension, queries,
                             offsets, products + row * kQueries);
  }
}

// --- many ---

// The last numbers of a row, fewer than four, as the instructions want them.
inline int32_t LastNumbers(const int8_t* row, int64_t dimension) {
  int32_t numbers = 0;
  const int64_t whole = dimension / 4 * 4;
  std::memcpy(&numbers, row + whole, static_cast<size_t>(dimension - whole));
  return numbers;
}

// kRows rows with one register of queries. Two sums a row, so that none waits
// for the one before it.
template <int kRows>
QUERN_AVX512 inline void MultiplyMany(const int8_t* rows, int64_t dimension,
                                      const uint8_t* queries, int64_t stride,
                                      int32_t* products) {
  __m512i even[kRows];
  __m512i odd[kRows];
  for (int row = 0; row < kRows; ++row) {
    even[row] = _mm512_setzero_si512();
    odd[row] = _mm512_setzero_si512();
  }
  const auto numbers = [&](int row, int64_t at) {
    int32_t four;
    std::memcpy(&four, rows + row * dimension + at, sizeof(four));
    return four;
  };
  int64_t at = 0;
  for (; at + 8 <= dimension; at += 8) {
    const __m512i first = _mm512_loadu_si512(queries + at * kLanes);
    const __m512i second = _mm512_loadu_si512(queries + (at + 4) * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      even[row] = _mm512_dpbusd_epi32(even[row], first,
                                      _mm512_set1_epi32(numbers(row, at)));
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      odd[row] = _mm512_dpbusd_epi32(odd[row], second,
                                     _mm512_set1_epi32(numbers(row, at + 4)));
    }
  }
  for (; at < dimension; at += 4) {
    const __m512i four = _mm512_loadu_si512(queries + at * kLanes);
    for (int row = 0; row < kRows; ++row) {
      const int32_t values =
          at + 4 <= dimension ? numbers(row, at)
                              : LastNumbers(rows + row * dimension, dimension);
      even[row] =
          _mm512_dpbusd_epi32(even[row], four, _mm512_set1_epi32(values));
    }
  }
  for (int row = 0; row < kRows; ++row) {
    _mm512_storeu_si512(products + row * stride,
                        _mm512_add_epi32(even[row], odd[row]));
  }
}

template <int kRows>
QUERN_AVX512 void TileVnni(const int8_t* rows, int64_t dimension,
                           const uint8_t* queries, int64_t count,
                           int64_t stride, int32_t* products) {
  const int64_t register_bytes = RoundUp(dimension, 4) * kLanes;
  for (int64_t lane = 0; lane < stride; lane += kLanes) {
    MultiplyMany<kRows>(rows, dimension,
                        queries + lane / kLanes * register_bytes, stride,
                        products + lane);
  }
  for (int row = 0; row < kRows; ++row) {
    int32_t* const of_row = products + row * stride;
    const __m512i offset = _mm512_set1_epi32(kOffset * of_row[count]);
    for (int64_t lane = 0; lane < stride; lane += kLanes) {
      _mm512_storeu_si512(
          of_row + lane,
          _mm512_sub_epi32(_mm512_loadu_si512(of_row + lane), offset));
    }
  }
}

void ManyVnni(const int8_t* rows, int64_t row_count, int64_t dimension,
              const uint8_t* queries, int64_t count, int64_t stride,
              int32_t* products) {
  constexpr int kRows = 7;  // 49 cells without a remainder.
  int64_t row = 0;
  for (; row + kRows <= row_count; row += kRows) {
    TileVnni<kRows>(rows + row * dimension, dimension, queries, count, stride,
                    products + row * stride);
  }
  for (; row + 2 <= row_count; row += 2) {
    TileVnni<2>(rows + row * dimension, dimension, queries, count, stride,
                products + row * stride);
  }
  if (row < row_count) {
    TileVnni<1>(rows + row * dimension, dimension, queries, count, stride,
                products + row * stride);
  }
}

void Vnni(const int8_t* rows, int64_t row_count, int64_t dimension,
          const uint8_t* queries, const int32_t* offsets, int64_t count,
          int64_t stride, int32_t* products) {
  switch (count) {
    case 1:
      return FewVnni<1>(rows, row_count, dimension, queries, offsets, products);
    case 2:
      return FewVnni<2>(rows, row_count, dimension, queries, offsets, products);
    case kFew:
      return FewVnni<kFew>(rows, row_count, dimension, queries, offsets,
                           products);
    default:
      return ManyVnni(rows, row_count, dimension, queries, count, stride,
                      products);
  }
}

#endif

// --- any ---

// The products of kTile queries with kRows rows. Written so that compilers make
// of it instructions for products of bytes.
template <int64_t kRows>
[[gnu::always_inline]] inline void TileAny(const uint8_t* __restrict queries,
                                           const int8_t* __restrict rows,
                                           int64_t dimension, int64_t stride,
                                           int32_t* __restrict products) {
  int32_t sums[kTile][kRows] = {};
  for (int64_t i = 0; i < dimension; ++i) {
#pragma GCC unroll 4
    for (int64_t query = 0; query < kTile; ++query) {
#pragma GCC unroll 4
      for (int64_t row = 0; row < kRows; ++row) {
        sums[query][row] += int32_t{queries[query * dimension + i]} *
                            int32_t{rows[row * dimension + i]};
      }
    }
  }
  for (int64_t query = 0; query < kTile; ++query) {
    for (int64_t row = 0; row < kRows; ++row) {
      products[row * stride + query] = sums[query][row];
    }
  }
}

[[gnu::always_inline]] inline void AllAny(const uint8_t* queries, int64_t count,
                                          int64_t stride, const int8_t* rows,
                                          int64_t row_count, int64_t dimension,
                                          int32_t* products) {
  for (int64_t row = 0; row < row_count;) {
    const bool is_tile = row + kTile <= row_count;
    for (int64_t query = 0; query < stride; query += kTile) {
      const uint8_t* const some = queries + query * dimension;
      int32_t* const to = products + row * stride + query;
      if (is_tile) {
        TileAny<kTile>(some, rows + row * dimension, dimension, stride, to);
      } else {
        TileAny<1>(some, rows + row * dimension, dimension, stride, to);
      }
    }
    row += is_tile ? kTile : 1;
  }
  for (int64_t row = 0; row < row_count; ++row) {
    int32_t* const of_row = products + row * stride;
    const int32_t offset = kOffset * of_row[count];
    for (int64_t query = 0; query < count; ++query) of_row[query] -= offset;
  }
}

void AllPortable(const uint8_t* queries, int64_t count, int64_t stride,
                 const int8_t* rows, int64_t row_count, int64_t dimension,
                 int32_t* products) {
  AllAny(queries, count, stride, rows, row_count, dimension, products);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void AllAvx2(const uint8_t* queries, int64_t count,
                                     int64_t stride, const int8_t* rows,
                                     int64_t row_count, int64_t dimension,
                                     int32_t* products) {
  AllAny(queries, count, stride, rows, row_count, dimension, products);
}
#endif

// --- weighted sums ---

// Numbers of a row whose sums stay in registers.
constexpr int64_t kSums = 64;

[[gnu::always_inline]] inline void AddAny(const int8_t* rows,
                                          absl::Span<const float> weights,
                                          absl::Span<float> sum) {
  const size_t dimension = sum.size();
  for (size_t row = 0; row < weights.size(); ++row) {
    const int8_t* const values = rows + row * dimension;
    const float weight = weights[row];
    for (size_t i = 0; i < dimension; ++i) {
      sum[i] += weight * static_cast<float>(values[i]);
    }
  }
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void AddAvx2(const int8_t* rows,
                                     absl::Span<const float> weights,
                                     absl::Span<float> sum) {
  AddAny(rows, weights, sum);
}

QUERN_AVX512 void AddAvx512(const int8_t* rows, absl::Span<const float> weights,
                            absl::Span<float> sum) {
  const auto dimension = static_cast<int64_t>(sum.size());
  int64_t at = 0;
  for (; at + kSums <= dimension; at += kSums) {
    __m512 sums[kSums / kLanes];
    for (int64_t i = 0; i < kSums / kLanes; ++i) {
      sums[i] = _mm512_loadu_ps(sum.data() + at + i * kLanes);
    }
    for (size_t row = 0; row < weights.size(); ++row) {
      const int8_t* const values = rows + row * dimension + at;
      const __m512 weight = _mm512_set1_ps(weights[row]);
      for (int64_t i = 0; i < kSums / kLanes; ++i) {
        const __m512 floats = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(values) + i)));
        // Not fused: the sums are those of the loop above.
        sums[i] = _mm512_add_ps(sums[i], _mm512_mul_ps(weight, floats));
      }
    }
    for (int64_t i = 0; i < kSums / kLanes; ++i) {
      _mm512_storeu_ps(sum.data() + at + i * kLanes, sums[i]);
    }
  }
  for (; at < dimension; ++at) {
    for (size_t row = 0; row < weights.size(); ++row) {
      sum[at] += weights[row] * static_cast<float>(rows[row * dimension + at]);
    }
  }
}
#endif

}  // namespace

absl::Span<const ByteKernel> ByteKernels() {
  static const auto* const kKernels = [] {
    auto* const kernels = new std::vector<ByteKernel>{ByteKernel::kPortable};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") != 0) {
      kernels->push_back(ByteKernel::kAvx2);
    }
    if (__builtin_cpu_supports("avx512f") != 0 &&
        __builtin_cpu_supports("avx512bw") != 0 &&
        __builtin_cpu_supports("avx512vl") != 0 &&
        __builtin_cpu_supports("avx512vnni") != 0) {
      kernels->push_back(ByteKernel::kAvx512Vnni);
    }
#endif
    return kernels;
  }();
  return *kKernels;
}

ByteProducts::ByteProducts(absl::Span<const int8_t> queries, int64_t count,
                           ByteKernel kernel)
    : kernel_(kernel),
      dimension_(static_cast<int64_t>(queries.size()) / count),
      count_(count) {
  const bool has_vnni = kernel == ByteKernel::kAvx512Vnni;
  const auto value = [&](int64_t query, int64_t i) {
    return queries[query * dimension_ + i];
  };
  if (has_vnni && count <= kFew) {
    stride_ = count;
    const int64_t padded = RoundUp(dimension_, kRegister);
    values_.resize(count * padded);
    for (int64_t query = 0; query < count; ++query) {
      int32_t sum = 0;
      for (int64_t i = 0; i < dimension_; ++i) {
        values_[query * padded + i] = static_cast<uint8_t>(value(query, i));
        sum += value(query, i);
      }
      offsets_.push_back(kOffset * sum);
    }
    return;
  }
  // Behind the queries one of ones.
  const auto unsigned_value = [&](int64_t query, int64_t i) {
    return query == count ? uint8_t{1}
                          : static_cast<uint8_t>(value(query, i) + kOffset);
  };
  if (has_vnni) {
    stride_ = RoundUp(count + 1, kLanes);
    const int64_t padded = RoundUp(dimension_, 4);
    values_.resize(stride_ * padded);
    for (int64_t query = 0; query <= count; ++query) {
      uint8_t* const lane = values_.data() + query / kLanes * kLanes * padded +
                            query % kLanes * 4;
      for (int64_t i = 0; i < dimension_; ++i) {
        lane[i / 4 * kRegister + i % 4] = unsigned_value(query, i);
      }
    }
    return;
  }
  stride_ = RoundUp(count + 1, kTile);
  values_.resize(stride_ * dimension_);
  for (int64_t query = 0; query <= count; ++query) {
    for (int64_t i = 0; i < dimension_; ++i) {
      values_[query * dimension_ + i] = unsigned_value(query, i);
    }
  }
}

void ByteProducts::Multiply(const int8_t* rows, int64_t row_count,
                            int32_t* products) const {
  const uint8_t* const queries = values_.data();
  switch (kernel_) {
#if defined(__x86_64__)
    case ByteKernel::kAvx512Vnni:
      return Vnni(rows, row_count, dimension_, queries, offsets_.data(), count_,
                  stride_, products);
    case ByteKernel::kAvx2:
      return AllAvx2(queries, count_, stride_, rows, row_count, dimension_,
                     products);
#endif
    default:
      return AllPortable(queries, count_, stride_, rows, row_count, dimension_,
                         products);
  }
}

void AddWeightedSum(const int8_t* rows, absl::Span<const float> weights,
                    absl::Span<float> sum, ByteKernel kernel) {
  switch (kernel) {
#if defined(__x86_64__)
    case ByteKernel::kAvx512Vnni:
      return AddAvx512(rows, weights, sum);
    case ByteKernel::kAvx2:
      return AddAvx2(rows, weights, sum);
#endif
    default:
      return AddAny(rows, weights, sum);
  }
}

}  // namespace quern
