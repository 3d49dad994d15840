#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "engine/index/kernels.h"

// One bit for each value of a turned vector, from which its inner product with
// any query follows within an error that is known: RaBitQ (Gao and Long,
// "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound
// for Approximate Nearest Neighbor Search", SIGMOD 2024), without centroids:
// nothing is learnt from the vectors, so the first one can be encoded.

namespace quern {

// Rows in blocks of kBinaryBlockRows (kernels.h): a set bit is a value above
// zero. A vector's product with q is about its `factor` times the sum of the
// turned values of q, each with the sign that the vector has there; the
// standard deviation of that is `error`, for a q of norm 1.
struct BinaryRows {
  size_t block_bytes = 0;
  const uint8_t* blocks = nullptr;  // Aligned to kCacheLineBytes.
};

// Turns vectors of one dimension, all in the same way, so that their values are
// alike: two rounds of random signs and a Hadamard transform. Immutable.
class BinaryCoder {
 public:
  // `dimension`: 1 to 4,096.
  explicit BinaryCoder(int64_t dimension);

  // Of a vector: the dimension in a power of two, 512 or more.
  size_t bits() const { return bits_; }
  size_t groups() const { return bits_ / kBinaryGroupBits; }
  size_t block_bytes() const { return block_bytes_; }
  static size_t BlockBytes(int64_t dimension);

  // Writes row `row` of a block whose bits are 0 there.
  void Encode(absl::Span<const float> vector, size_t row, uint8_t* block) const;

  // Writes bits() values, of norm 1 unless all are zero. Returns the norm of
  // `vector`.
  float Turn(absl::Span<const float> vector, float* turned) const;

 private:
  const size_t bits_;
  const size_t block_bytes_;
  std::vector<float> signs_;  // Of the first round, then of the second.
};

// A query of binary codes. Immutable.
class BinaryQuery {
 public:
  BinaryQuery(const BinaryCoder& coder, absl::Span<const float> vector);

  // Lists those of `count` rows from `first` on, where a block begins, whose
  // product with the query may be `threshold` or more, errors of so many
  // standard deviations allowed, and returns how many there are. A block that
  // is not whole is listed.
  size_t MayReach(float threshold, float sigmas, const BinaryRows& rows,
                  uint32_t first, size_t count, uint32_t* list) const;

 private:
  float norm_ = 0;
  std::vector<uint8_t> tables_;
  BinaryProbe probe_;  // But for its tables and what is asked for.
};

}  // namespace quern
