#include "engine/index/kernels.h"

#include <algorithm>

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

#define QUERN_AVX512                                                     \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma," \
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

using ScoreRowsFunction = void (*)(const QueryCodes&, const CodeRows&,
                                   const uint32_t*, uint32_t, size_t, float*);

struct Kernels {
  ScoreRowsFunction fp32, fp16, int8;
  float (*inner_product)(const float*, const float*, size_t);
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
      HasAvx512Vnni() ? Kernels{ScoreFp32Avx512, ScoreFp16Avx512,
                                ScoreInt8Avx512, InnerProductAvx512}
                      : Kernels{ScoreFp32Avx2, ScoreFp16Avx2, ScoreInt8Avx2,
                                InnerProductAvx2};
  return kernels;
}

}  // namespace

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

float InnerProduct(const float* a, const float* b, size_t count) {
  return ThisProcessors().inner_product(a, b, count);
}

}  // namespace quern
