#pragma once

#include <cstddef>
#include <cstdint>

// Inner products, for the instructions that this processor has (AVX-512 with
// VNNI, or AVX2). Rows are padded with zeros to whole cache lines.

namespace quern {

// How vectors are kept.
enum class VectorStorage : uint32_t { kFp32 = 1, kFp16 = 2, kInt8 = 3 };

inline constexpr size_t kCacheLineBytes = 64;

// Bytes of a padded row.
size_t RowBytes(VectorStorage storage, int64_t dimension);

// A row is its codes times `scale`; unused by kFp32.
struct CodeScale {
  float scale = 1;
  float error = 0;  // Norm of what the codes have lost of the vector.
};

// Rows of codes, one after the other. kInt8: code c stands for c - 128.
struct CodeRows {
  VectorStorage storage = VectorStorage::kFp32;
  size_t row_bytes = 0;
  const uint8_t* codes = nullptr;     // Aligned to kCacheLineBytes.
  const CodeScale* scales = nullptr;  // One per row; null for kFp32.

  const uint8_t* row(size_t i) const { return codes + i * row_bytes; }
};

// A query in every form that a kernel wants, padded like rows.
struct QueryCodes {
  const float* values = nullptr;     // Padded to 16 floats.
  const int8_t* integers = nullptr;  // values / scale, in [-127, 127].
  float scale = 1;                   // Of `integers`.
  int32_t offset = 0;                // 128 times the sum of `integers`.
};

// scores[i] = query * row, for rows[i], or for first + i where `rows` is null.
// Listed rows are prefetched. Equal rows get equal scores, wherever they lie.
void ScoreRows(const QueryCodes& query, const CodeRows& rows,
               const uint32_t* list, uint32_t first, size_t count,
               float* scores);

// Queries that ScoreRowsOfFour() takes.
inline constexpr size_t kQueriesTogether = 4;
// scores[q][i] = queries[q] * row first + i, of kQueriesTogether queries, to
// the bit what ScoreRows() gives; each row is read once for all.
void ScoreRowsOfFour(const QueryCodes* const* queries, const CodeRows& rows,
                     uint32_t first, size_t count, float* const* scores);

// The inner product of `count` floats, as ScoreRows() computes it; `count` is a
// multiple of 16.
float InnerProduct(const float* a, const float* b, size_t count);

// The sum of squares of `count` floats; finite if all of them are.
double SquaredNorm(const float* values, size_t count);

// The largest magnitude of `count` floats, a multiple of 16.
float LargestMagnitude(const float* values, size_t count);

// What is left of floats as steps of a scale.
struct QuantizedSums {
  int32_t steps = 0;  // Their sum.
  float error = 0;    // Norm of what the steps lose.
};

// integers[i] = values[i] / scale, rounded to nearest, in [-127, 127]; `count`
// is a multiple of 16, `scale` a normal number above 0, each value finite.
QuantizedSums Quantize(const float* values, size_t count, float scale,
                       int8_t* integers);

// Replaces `count` floats, a power of two of 16 or more, by their sums under
// each row of signs of the Hadamard matrix. Their norm grows by the root of
// `count`.
void HadamardTransform(float* values, size_t count);

// A block of binary codes (binary_codes.h) has 16 bytes for each group of four
// bits of its rows, of row i in the low half of byte i, of row i + 16 in its
// high half; then a `factor` and an `error` for each row, as floats.
inline constexpr size_t kBinaryBlockRows = 32;
inline constexpr size_t kBinaryGroupBits = 4;

// What a block is asked.
struct BinaryProbe {
  const uint8_t* tables = nullptr;  // 16 bytes per group, by its bits.
  size_t groups = 0;                // A multiple of 4, at most 1,024.
  // A row's product is `factor` * (the sum of its bytes of the tables + start)
  // * step.
  float start = 0;
  float step = 1;
  // Its variance is error^2 + factor^2 * squared_error.
  float squared_error = 0;
  float least = 0;   // The product that is asked for,
  float sigmas = 0;  // at most so many standard deviations above the row's.
};

// Bit i: whether row i may have the product that is asked for.
uint32_t BlockMayReach(const BinaryProbe& probe, const uint8_t* block);

// IEEE 754 binary16, rounded to nearest.
uint16_t ToHalf(float value);
float FromHalf(uint16_t half);
// values[i] = scale * the i-th half; `count` is a multiple of 8.
void FromHalves(const uint8_t* halves, size_t count, float scale,
                float* values);

inline void PrefetchLines(const void* address, size_t bytes) {
  const char* line = static_cast<const char*>(address);
  for (size_t i = 0; i < bytes; i += kCacheLineBytes) {
    __builtin_prefetch(line + i);
  }
}

}  // namespace quern
