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

// The inner product of `count` floats, as ScoreRows() computes it; `count` is a
// multiple of 16.
float InnerProduct(const float* a, const float* b, size_t count);

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
