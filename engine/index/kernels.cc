#include "engine/index/kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <immintrin.h>

// GCC 12's own AVX-512 header warns of what it leaves undefined on purpose (its
// bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace quern {
namespace {

// Rows ahead that are fetched from memory while one is scored.
constexpr size_t kPrefetchRows = 4;
// Of longer rows the processor fetches the rest by itself.
constexpr size_t kPrefetchBytes = 1024;

#define QUERN_AVX512                                          \
  __attribute__((                                             \
      target("avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma," \
             "f16c")))
#define QUERN_AVX2 __attribute__((target("avx2,fma,f16c")))

bool HasAvx512Vnni() {
  return __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 &&
         __builtin_cpu_supports("avx512vnni") != 0;
}

// --- AVX-512 ---

QUERN_AVX512 inline float DotFp32Avx512(const float* a, const float* b,
                                        size_t count) {
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    even =
        _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), even);
    odd = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16),
                          _mm512_loadu_ps(b + i + 16), odd);
  }
  if (i < count) {
    even =
        _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), even);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

QUERN_AVX512 inline float DotFp16Avx512(const float* a, const uint8_t* b,
                                        size_t bytes) {
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  for (size_t i = 0; i < bytes; i += 64, a += 32) {
    const __m512i halves = _mm512_loadu_si512(b + i);
    even =
        _mm512_fmadd_ps(_mm512_loadu_ps(a),
                        _mm512_cvtph_ps(_mm512_castsi512_si256(halves)), even);
    odd = _mm512_fmadd_ps(_mm512_loadu_ps(a + 16),
                          _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)),
                          odd);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

QUERN_AVX512 inline int32_t DotInt8Avx512(const int8_t* a, const uint8_t* b,
                                          size_t bytes) {
  __m512i even = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + 128 <= bytes; i += 128) {
    even = _mm512_dpbusd_epi32(even, _mm512_loadu_si512(b + i),
                               _mm512_loadu_si512(a + i));
    odd = _mm512_dpbusd_epi32(odd, _mm512_loadu_si512(b + i + 64),
                              _mm512_loadu_si512(a + i + 64));
  }
  if (i < bytes) {
    even = _mm512_dpbusd_epi32(even, _mm512_loadu_si512(b + i),
                               _mm512_loadu_si512(a + i));
  }
  return _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd));
}

// --- AVX2 ---

QUERN_AVX2 inline float Sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
  return _mm_cvtss_f32(s);
}

QUERN_AVX2 inline float DotFp32Avx2(const float* a, const float* b,
                                    size_t count) {
  __m256 even = _mm256_setzero_ps();
  __m256 odd = _mm256_setzero_ps();
  for (size_t i = 0; i < count; i += 16) {
    even =
        _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), even);
    odd = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8),
                          _mm256_loadu_ps(b + i + 8), odd);
  }
  return Sum(_mm256_add_ps(even, odd));
}

QUERN_AVX2 inline float DotFp16Avx2(const float* a, const uint8_t* b,
                                    size_t bytes) {
  __m256 even = _mm256_setzero_ps();
  __m256 odd = _mm256_setzero_ps();
  for (size_t i = 0; i < bytes; i += 32, a += 16) {
    const auto* halves = reinterpret_cast<const __m128i*>(b + i);
    even = _mm256_fmadd_ps(_mm256_loadu_ps(a),
                           _mm256_cvtph_ps(_mm_loadu_si128(halves)), even);
    odd = _mm256_fmadd_ps(_mm256_loadu_ps(a + 8),
                          _mm256_cvtph_ps(_mm_loadu_si128(halves + 1)), odd);
  }
  return Sum(_mm256_add_ps(even, odd));
}

// By 16-bit products: maddubs would saturate.
QUERN_AVX2 inline int32_t DotInt8Avx2(const int8_t* a, const uint8_t* b,
                                      size_t bytes) {
  __m256i sum = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes; i += 16) {
    const __m256i query = _mm256_cvtepi8_epi16(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)));
    const __m256i row = _mm256_cvtepu8_epi16(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i)));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(query, row));
  }
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum),
                            _mm256_extracti128_si256(sum, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
  return _mm_cvtsi128_si32(s);
}

// --- rows ---

struct Lister {
  const CodeRows& rows;
  const uint32_t* list;
  uint32_t first;
  size_t count;
  size_t prefetch_bytes;

  Lister(const CodeRows& all, const uint32_t* listed, uint32_t first_row,
         size_t how_many)
      : rows(all),
        list(listed),
        first(first_row),
        count(how_many),
        prefetch_bytes(std::min(all.row_bytes, kPrefetchBytes)) {
    if (list == nullptr) return;
    for (size_t i = 0; i < std::min(count, kPrefetchRows); ++i) Prefetch(i);
  }

  void Prefetch(size_t i) const {
    PrefetchLines(rows.row(list[i]), prefetch_bytes);
    if (rows.scales != nullptr) __builtin_prefetch(&rows.scales[list[i]]);
  }

  size_t Next(size_t i) const {
    if (list == nullptr) return first + i;
    if (i + kPrefetchRows < count) Prefetch(i + kPrefetchRows);
    return list[i];
  }
};

// One function per storage and instruction set, so that the product is inlined
// into the loop.
#define QUERN_SCORE_ROWS(name, target, product)                        \
  target void name(const QueryCodes& query, const CodeRows& rows,      \
                   const uint32_t* list, uint32_t first, size_t count, \
                   float* scores) {                                    \
    const Lister lister(rows, list, first, count);                     \
    for (size_t i = 0; i < count; ++i) {                               \
      const size_t row = lister.Next(i);                               \
      const uint8_t* codes = rows.row(row);                            \
      scores[i] = product;                                             \
    }                                                                  \
  }

QUERN_SCORE_ROWS(ScoreFp32Avx512, QUERN_AVX512,
                 DotFp32Avx512(query.values,
                               reinterpret_cast<const float*>(codes),
                               rows.row_bytes / sizeof(float)))
QUERN_SCORE_ROWS(ScoreFp16Avx512, QUERN_AVX512,
                 rows.scales[row].scale* DotFp16Avx512(query.values, codes,
                                                       rows.row_bytes))
QUERN_SCORE_ROWS(ScoreInt8Avx512, QUERN_AVX512,
                 query.scale* rows.scales[row].scale* static_cast<float>(
                     DotInt8Avx512(query.integers, codes, rows.row_bytes) -
                     query.offset))
QUERN_SCORE_ROWS(ScoreFp32Avx2, QUERN_AVX2,
                 DotFp32Avx2(query.values,
                             reinterpret_cast<const float*>(codes),
                             rows.row_bytes / sizeof(float)))
QUERN_SCORE_ROWS(ScoreFp16Avx2, QUERN_AVX2,
                 rows.scales[row].scale* DotFp16Avx2(query.values, codes,
                                                     rows.row_bytes))
QUERN_SCORE_ROWS(ScoreInt8Avx2, QUERN_AVX2,
                 query.scale* rows.scales[row].scale* static_cast<float>(
                     DotInt8Avx2(query.integers, codes, rows.row_bytes) -
                     query.offset))

#undef QUERN_SCORE_ROWS

// --- rows, for four queries ---
//
// A block of rows is held against all queries in registers. Each sum is made of
// the same products in the same order as by one query alone.

constexpr size_t kFour = kQueriesTogether;

template <size_t kRows>
QUERN_AVX512 inline void FourFp32Avx512(const QueryCodes* const* queries,
                                        const CodeRows& rows, size_t first,
                                        float* const* scores) {
  const size_t count = rows.row_bytes / sizeof(float);
  __m512 even[kFour][kRows];
  __m512 odd[kFour][kRows];
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      even[q][r] = _mm512_setzero_ps();
      odd[q][r] = _mm512_setzero_ps();
    }
  }
  const auto* row = reinterpret_cast<const float*>(rows.row(first));
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m512 low[kRows];
    __m512 high[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      low[r] = _mm512_loadu_ps(row + r * count + i);
      high[r] = _mm512_loadu_ps(row + r * count + i + 16);
    }
#pragma GCC unroll 4
    for (size_t q = 0; q < kFour; ++q) {
      const __m512 a = _mm512_loadu_ps(queries[q]->values + i);
      const __m512 b = _mm512_loadu_ps(queries[q]->values + i + 16);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) {
        even[q][r] = _mm512_fmadd_ps(a, low[r], even[q][r]);
        odd[q][r] = _mm512_fmadd_ps(b, high[r], odd[q][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      if (i < count) {
        even[q][r] =
            _mm512_fmadd_ps(_mm512_loadu_ps(queries[q]->values + i),
                            _mm512_loadu_ps(row + r * count + i), even[q][r]);
      }
      scores[q][r] = _mm512_reduce_add_ps(_mm512_add_ps(even[q][r], odd[q][r]));
    }
  }
}

template <size_t kRows>
QUERN_AVX512 inline void FourFp16Avx512(const QueryCodes* const* queries,
                                        const CodeRows& rows, size_t first,
                                        float* const* scores) {
  __m512 even[kFour][kRows];
  __m512 odd[kFour][kRows];
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      even[q][r] = _mm512_setzero_ps();
      odd[q][r] = _mm512_setzero_ps();
    }
  }
  const uint8_t* const row = rows.row(first);
  for (size_t i = 0; i < rows.row_bytes; i += 64) {
    __m512 low[kRows];
    __m512 high[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      const __m512i halves = _mm512_loadu_si512(row + r * rows.row_bytes + i);
      low[r] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
      high[r] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    }
#pragma GCC unroll 4
    for (size_t q = 0; q < kFour; ++q) {
      const float* const values = queries[q]->values + i / 2;
      const __m512 a = _mm512_loadu_ps(values);
      const __m512 b = _mm512_loadu_ps(values + 16);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) {
        even[q][r] = _mm512_fmadd_ps(a, low[r], even[q][r]);
        odd[q][r] = _mm512_fmadd_ps(b, high[r], odd[q][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      scores[q][r] = rows.scales[first + r].scale *
                     _mm512_reduce_add_ps(_mm512_add_ps(even[q][r], odd[q][r]));
    }
  }
}

// Sums of integers are the same in any order.
template <size_t kRows>
QUERN_AVX512 inline void FourInt8Avx512(const QueryCodes* const* queries,
                                        const CodeRows& rows, size_t first,
                                        float* const* scores) {
  __m512i sum[kFour][kRows];
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) sum[q][r] = _mm512_setzero_si512();
  }
  const uint8_t* const row = rows.row(first);
  for (size_t i = 0; i < rows.row_bytes; i += 64) {
    __m512i codes[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      codes[r] = _mm512_loadu_si512(row + r * rows.row_bytes + i);
    }
#pragma GCC unroll 4
    for (size_t q = 0; q < kFour; ++q) {
      const __m512i query = _mm512_loadu_si512(queries[q]->integers + i);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) {
        sum[q][r] = _mm512_dpbusd_epi32(sum[q][r], codes[r], query);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      scores[q][r] = queries[q]->scale * rows.scales[first + r].scale *
                     static_cast<float>(_mm512_reduce_add_epi32(sum[q][r]) -
                                        queries[q]->offset);
    }
  }
}

QUERN_AVX2 inline void FourFp32Avx2(const QueryCodes* const* queries,
                                    const CodeRows& rows, size_t first,
                                    float* const* scores) {
  const auto* const row = reinterpret_cast<const float*>(rows.row(first));
  __m256 even[kFour];
  __m256 odd[kFour];
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
    even[q] = _mm256_setzero_ps();
    odd[q] = _mm256_setzero_ps();
  }
  for (size_t i = 0; i < rows.row_bytes / sizeof(float); i += 16) {
    const __m256 low = _mm256_loadu_ps(row + i);
    const __m256 high = _mm256_loadu_ps(row + i + 8);
#pragma GCC unroll 4
    for (size_t q = 0; q < kFour; ++q) {
      const float* const values = queries[q]->values + i;
      even[q] = _mm256_fmadd_ps(_mm256_loadu_ps(values), low, even[q]);
      odd[q] = _mm256_fmadd_ps(_mm256_loadu_ps(values + 8), high, odd[q]);
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
    scores[q][0] = Sum(_mm256_add_ps(even[q], odd[q]));
  }
}

QUERN_AVX2 inline void FourFp16Avx2(const QueryCodes* const* queries,
                                    const CodeRows& rows, size_t first,
                                    float* const* scores) {
  const uint8_t* const row = rows.row(first);
  __m256 even[kFour];
  __m256 odd[kFour];
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
    even[q] = _mm256_setzero_ps();
    odd[q] = _mm256_setzero_ps();
  }
  for (size_t i = 0; i < rows.row_bytes; i += 32) {
    const auto* halves = reinterpret_cast<const __m128i*>(row + i);
    const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(halves));
    const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128(halves + 1));
#pragma GCC unroll 4
    for (size_t q = 0; q < kFour; ++q) {
      const float* const values = queries[q]->values + i / 2;
      even[q] = _mm256_fmadd_ps(_mm256_loadu_ps(values), low, even[q]);
      odd[q] = _mm256_fmadd_ps(_mm256_loadu_ps(values + 8), high, odd[q]);
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kFour; ++q) {
    scores[q][0] =
        rows.scales[first].scale * Sum(_mm256_add_ps(even[q], odd[q]));
  }
}

// A row of integers is in the cache for the second query and later.
QUERN_AVX2 inline void FourInt8Avx2(const QueryCodes* const* queries,
                                    const CodeRows& rows, size_t first,
                                    float* const* scores) {
  for (size_t q = 0; q < kFour; ++q) {
    scores[q][0] =
        queries[q]->scale * rows.scales[first].scale *
        static_cast<float>(
            DotInt8Avx2(queries[q]->integers, rows.row(first), rows.row_bytes) -
            queries[q]->offset);
  }
}

// `block` scores `step` rows at once, `single` one.
#define QUERN_SCORE_ROWS_OF_FOUR(name, target, step, block, single)        \
  target void name(const QueryCodes* const* queries, const CodeRows& rows, \
                   uint32_t first, size_t count, float* const* scores) {   \
    float* at[kFour] = {scores[0], scores[1], scores[2], scores[3]};       \
    size_t i = 0;                                                          \
    for (; i + (step) <= count; i += (step)) {                             \
      block(queries, rows, first + i, at);                                 \
      for (float*& score : at) score += (step);                            \
    }                                                                      \
    for (; i < count; ++i) {                                               \
      single(queries, rows, first + i, at);                                \
      for (float*& score : at) ++score;                                    \
    }                                                                      \
  }

QUERN_SCORE_ROWS_OF_FOUR(ScoreFourFp32Avx512, QUERN_AVX512, 2,
                         FourFp32Avx512<2>, FourFp32Avx512<1>)
QUERN_SCORE_ROWS_OF_FOUR(ScoreFourFp16Avx512, QUERN_AVX512, 2,
                         FourFp16Avx512<2>, FourFp16Avx512<1>)
QUERN_SCORE_ROWS_OF_FOUR(ScoreFourInt8Avx512, QUERN_AVX512, 4,
                         FourInt8Avx512<4>, FourInt8Avx512<1>)
QUERN_SCORE_ROWS_OF_FOUR(ScoreFourFp32Avx2, QUERN_AVX2, 1, FourFp32Avx2,
                         FourFp32Avx2)
QUERN_SCORE_ROWS_OF_FOUR(ScoreFourFp16Avx2, QUERN_AVX2, 1, FourFp16Avx2,
                         FourFp16Avx2)
QUERN_SCORE_ROWS_OF_FOUR(ScoreFourInt8Avx2, QUERN_AVX2, 1, FourInt8Avx2,
                         FourInt8Avx2)

#undef QUERN_SCORE_ROWS_OF_FOUR

// --- binary codes ---

// A word holds the sum of so many groups' bytes.
constexpr size_t kGroupsTogether = 256;

// Of a block's rows: bytes of the tables, added up in words. `all` has those of
// the even rows plus 256 times those of the odd ones, modulo 65,536.
struct WordSums {
  __m256i all;
  __m256i odd;
};

// Adds the sums of 16 rows, each of which has two words.
QUERN_AVX2 inline void AddTo(const WordSums& words, int32_t* sums) {
  const __m256i even =
      _mm256_sub_epi16(words.all, _mm256_slli_epi16(words.odd, 8));
  const __m128i evens = _mm_add_epi16(_mm256_castsi256_si128(even),
                                      _mm256_extracti128_si256(even, 1));
  const __m128i odds = _mm_add_epi16(_mm256_castsi256_si128(words.odd),
                                     _mm256_extracti128_si256(words.odd, 1));
  auto* const eights = reinterpret_cast<__m256i*>(sums);
  _mm256_store_si256(
      eights,
      _mm256_add_epi32(_mm256_load_si256(eights),
                       _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(evens, odds))));
  _mm256_store_si256(
      eights + 1,
      _mm256_add_epi32(_mm256_load_si256(eights + 1),
                       _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(evens, odds))));
}

// Sets the sum of each row of a block.
QUERN_AVX2 void SumBlockAvx2(const BinaryProbe& probe, const uint8_t* block,
                             int32_t* sums) {
  const __m256i four_bits = _mm256_set1_epi8(0x0F);
  std::fill_n(sums, kBinaryBlockRows, 0);
  for (size_t begin = 0; begin < probe.groups; begin += kGroupsTogether) {
    const size_t end = std::min(probe.groups, begin + kGroupsTogether);
    WordSums low = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    WordSums high = low;
    for (size_t g = begin; g < end; g += 2) {
      const __m256i bits =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 16 * g));
      const __m256i table = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(probe.tables + 16 * g));
      const __m256i first =
          _mm256_shuffle_epi8(table, _mm256_and_si256(bits, four_bits));
      const __m256i second = _mm256_shuffle_epi8(
          table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), four_bits));
      low.all = _mm256_add_epi16(low.all, first);
      low.odd = _mm256_add_epi16(low.odd, _mm256_srli_epi16(first, 8));
      high.all = _mm256_add_epi16(high.all, second);
      high.odd = _mm256_add_epi16(high.odd, _mm256_srli_epi16(second, 8));
    }
    AddTo(low, sums);
    AddTo(high, sums + kBinaryBlockRows / 2);
  }
}

// The two halves of each, added.
QUERN_AVX512 inline WordSums Halved(__m512i all, __m512i odd) {
  return {_mm256_add_epi16(_mm512_castsi512_si256(all),
                           _mm512_extracti64x4_epi64(all, 1)),
          _mm256_add_epi16(_mm512_castsi512_si256(odd),
                           _mm512_extracti64x4_epi64(odd, 1))};
}

QUERN_AVX512 void SumBlockAvx512(const BinaryProbe& probe, const uint8_t* block,
                                 int32_t* sums) {
  const __m512i four_bits = _mm512_set1_epi8(0x0F);
  std::fill_n(sums, kBinaryBlockRows, 0);
  for (size_t begin = 0; begin < probe.groups; begin += kGroupsTogether) {
    const size_t end = std::min(probe.groups, begin + kGroupsTogether);
    __m512i low = _mm512_setzero_si512();
    __m512i low_odd = low;
    __m512i high = low;
    __m512i high_odd = low;
    for (size_t g = begin; g < end; g += 4) {
      const __m512i bits = _mm512_loadu_si512(block + 16 * g);
      const __m512i table = _mm512_loadu_si512(probe.tables + 16 * g);
      const __m512i first =
          _mm512_shuffle_epi8(table, _mm512_and_si512(bits, four_bits));
      const __m512i second = _mm512_shuffle_epi8(
          table, _mm512_and_si512(_mm512_srli_epi16(bits, 4), four_bits));
      low = _mm512_add_epi16(low, first);
      low_odd = _mm512_add_epi16(low_odd, _mm512_srli_epi16(first, 8));
      high = _mm512_add_epi16(high, second);
      high_odd = _mm512_add_epi16(high_odd, _mm512_srli_epi16(second, 8));
    }
    AddTo(Halved(low, low_odd), sums);
    AddTo(Halved(high, high_odd), sums + kBinaryBlockRows / 2);
  }
}

using ScoreRowsFunction = void (*)(const QueryCodes&, const CodeRows&,
                                   const uint32_t*, uint32_t, size_t, float*);
using ScoreRowsOfFourFunction = void (*)(const QueryCodes* const*,
                                         const CodeRows&, uint32_t, size_t,
                                         float* const*);

struct Kernels {
  ScoreRowsFunction fp32, fp16, int8;
  ScoreRowsOfFourFunction four_fp32, four_fp16, four_int8;
  float (*inner_product)(const float*, const float*, size_t);
  void (*sum_block)(const BinaryProbe&, const uint8_t*, int32_t*);
};

QUERN_AVX512 float InnerProductAvx512(const float* a, const float* b,
                                      size_t count) {
  return DotFp32Avx512(a, b, count);
}
QUERN_AVX2 float InnerProductAvx2(const float* a, const float* b,
                                  size_t count) {
  return DotFp32Avx2(a, b, count);
}

const Kernels& ThisProcessors() {
  static const Kernels kernels =
      HasAvx512Vnni()
          ? Kernels{ScoreFp32Avx512,     ScoreFp16Avx512,
                    ScoreInt8Avx512,     ScoreFourFp32Avx512,
                    ScoreFourFp16Avx512, ScoreFourInt8Avx512,
                    InnerProductAvx512,  SumBlockAvx512}
          : Kernels{ScoreFp32Avx2,     ScoreFp16Avx2,     ScoreInt8Avx2,
                    ScoreFourFp32Avx2, ScoreFourFp16Avx2, ScoreFourInt8Avx2,
                    InnerProductAvx2,  SumBlockAvx2};
  return kernels;
}

}  // namespace

QUERN_AVX2 float LargestMagnitude(const float* values, size_t count) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  __m256 largest = _mm256_setzero_ps();
  for (size_t i = 0; i < count; i += 8) {
    largest = _mm256_max_ps(
        largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(values + i)));
  }
  std::array<float, 8> lanes{};
  _mm256_storeu_ps(lanes.data(), largest);
  return *std::max_element(lanes.begin(), lanes.end());
}

namespace {

// Sums of squares, which in floats could vanish or overflow.
struct SquareSums {
  __m256d low, high;
};

QUERN_AVX2 inline void AddSquares(__m256 v, SquareSums& sums) {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
  sums.low = _mm256_fmadd_pd(low, low, sums.low);
  sums.high = _mm256_fmadd_pd(high, high, sums.high);
}

QUERN_AVX2 inline double Total(const SquareSums& sums) {
  std::array<double, 4> lanes{};
  _mm256_storeu_pd(lanes.data(), _mm256_add_pd(sums.low, sums.high));
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace

QUERN_AVX2 double SquaredNorm(const float* values, size_t count) {
  // Two, so that additions do not wait for each other.
  SquareSums even{_mm256_setzero_pd(), _mm256_setzero_pd()};
  SquareSums odd = even;
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    AddSquares(_mm256_loadu_ps(values + i), even);
    AddSquares(_mm256_loadu_ps(values + i + 8), odd);
  }
  double sum = Total(even) + Total(odd);
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum;
}

QUERN_AVX2 QuantizedSums Quantize(const float* values, size_t count,
                                  float scale, int8_t* integers) {
  const __m256 inverse = _mm256_set1_ps(1 / scale);
  const __m256 step_size = _mm256_set1_ps(scale);
  // Rounding up the inverse could exceed it.
  const __m256 most = _mm256_set1_ps(127);
  const __m256 least = _mm256_set1_ps(-127);
  SquareSums lost{_mm256_setzero_pd(), _mm256_setzero_pd()};
  __m256i sum = _mm256_setzero_si256();
  for (size_t i = 0; i < count; i += 8) {
    const __m256 eight = _mm256_loadu_ps(values + i);
    // In this order what is not a number, as a file made on purpose may have
    // it, becomes `least`.
    const __m256i steps = _mm256_cvtps_epi32(_mm256_min_ps(
        _mm256_max_ps(_mm256_mul_ps(eight, inverse), least), most));
    AddSquares(_mm256_fnmadd_ps(step_size, _mm256_cvtepi32_ps(steps), eight),
               lost);
    sum = _mm256_add_epi32(sum, steps);
    // The low bytes, in order.
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(steps),
                                          _mm256_extracti128_si256(steps, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(integers + i),
                     _mm_packs_epi16(words, words));
  }
  std::array<int32_t, 8> lanes{};
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.data()), sum);
  return {.steps = std::accumulate(lanes.begin(), lanes.end(), 0),
          .error = static_cast<float>(std::sqrt(Total(lost)))};
}

QUERN_AVX2 void HadamardTransform(float* values, size_t count) {
  // Within eight values: what stands across, and the value with its sign.
  const __m256 one = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 two = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 four = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  for (size_t i = 0; i < count; i += 8) {
    __m256 v = _mm256_loadu_ps(values + i);
    v = _mm256_fmadd_ps(v, one, _mm256_permute_ps(v, 0xB1));
    v = _mm256_fmadd_ps(v, two, _mm256_permute_ps(v, 0x4E));
    v = _mm256_fmadd_ps(v, four, _mm256_permute2f128_ps(v, v, 1));
    _mm256_storeu_ps(values + i, v);
  }
  for (size_t half = 8; half < count; half *= 2) {
    for (size_t i = 0; i < count; i += 2 * half) {
      for (size_t j = i; j < i + half; j += 8) {
        const __m256 a = _mm256_loadu_ps(values + j);
        const __m256 b = _mm256_loadu_ps(values + j + half);
        _mm256_storeu_ps(values + j, _mm256_add_ps(a, b));
        _mm256_storeu_ps(values + j + half, _mm256_sub_ps(a, b));
      }
    }
  }
}

QUERN_AVX2 uint32_t BlockMayReach(const BinaryProbe& probe,
                                  const uint8_t* block) {
  alignas(kCacheLineBytes) std::array<int32_t, kBinaryBlockRows> sums;
  ThisProcessors().sum_block(probe, block, sums.data());
  const auto* const factors =
      reinterpret_cast<const float*>(block + 16 * probe.groups);
  const float* const errors = factors + kBinaryBlockRows;
  const __m256 start = _mm256_set1_ps(probe.start);
  const __m256 step = _mm256_set1_ps(probe.step);
  const __m256 squared_error = _mm256_set1_ps(probe.squared_error);
  const __m256 least = _mm256_set1_ps(probe.least);
  const __m256 squared_sigmas = _mm256_set1_ps(probe.sigmas * probe.sigmas);
  uint32_t may = 0;
  for (size_t i = 0; i < kBinaryBlockRows; i += 8) {
    const __m256 factor = _mm256_loadu_ps(factors + i);
    const __m256 error = _mm256_loadu_ps(errors + i);
    const __m256i steps =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(&sums[i]));
    const __m256 sum = _mm256_add_ps(_mm256_cvtepi32_ps(steps), start);
    const __m256 product = _mm256_mul_ps(_mm256_mul_ps(factor, step), sum);
    const __m256 variance =
        _mm256_fmadd_ps(_mm256_mul_ps(factor, factor), squared_error,
                        _mm256_mul_ps(error, error));
    const __m256 gap =
        _mm256_max_ps(_mm256_sub_ps(least, product), _mm256_setzero_ps());
    const __m256 within =
        _mm256_cmp_ps(_mm256_mul_ps(gap, gap),
                      _mm256_mul_ps(squared_sigmas, variance), _CMP_LE_OQ);
    may |= static_cast<uint32_t>(_mm256_movemask_ps(within)) << i;
  }
  return may;
}

QUERN_AVX2 uint16_t ToHalf(float value) {
  return static_cast<uint16_t>(_mm_extract_epi16(
      _mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}

QUERN_AVX2 float FromHalf(uint16_t half) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

QUERN_AVX2 void FromHalves(const uint8_t* halves, size_t count, float scale,
                           float* values) {
  for (size_t i = 0; i < count; i += 8) {
    const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128(
        reinterpret_cast<const __m128i*>(halves + i * sizeof(uint16_t))));
    _mm256_storeu_ps(values + i, _mm256_mul_ps(eight, _mm256_set1_ps(scale)));
  }
}

size_t RowBytes(VectorStorage storage, int64_t dimension) {
  const size_t value_bytes = storage == VectorStorage::kFp32   ? 4
                             : storage == VectorStorage::kFp16 ? 2
                                                               : 1;
  const size_t bytes = static_cast<size_t>(dimension) * value_bytes;
  return (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

void ScoreRows(const QueryCodes& query, const CodeRows& rows,
               const uint32_t* list, uint32_t first, size_t count,
               float* scores) {
  const Kernels& kernels = ThisProcessors();
  switch (rows.storage) {
    case VectorStorage::kFp32:
      return kernels.fp32(query, rows, list, first, count, scores);
    case VectorStorage::kFp16:
      return kernels.fp16(query, rows, list, first, count, scores);
    case VectorStorage::kInt8:
      return kernels.int8(query, rows, list, first, count, scores);
  }
}

void ScoreRowsOfFour(const QueryCodes* const* queries, const CodeRows& rows,
                     uint32_t first, size_t count, float* const* scores) {
  const Kernels& kernels = ThisProcessors();
  switch (rows.storage) {
    case VectorStorage::kFp32:
      return kernels.four_fp32(queries, rows, first, count, scores);
    case VectorStorage::kFp16:
      return kernels.four_fp16(queries, rows, first, count, scores);
    case VectorStorage::kInt8:
      return kernels.four_int8(queries, rows, first, count, scores);
  }
}

float InnerProduct(const float* a, const float* b, size_t count) {
  return ThisProcessors().inner_product(a, b, count);
}

}  // namespace quern
