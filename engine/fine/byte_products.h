#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quern {

// Instructions that a kernel is made of.
enum class ByteKernel { kPortable, kAvx2, kAvx512Vnni };

// Those that this processor has, the quickest last.
absl::Span<const ByteKernel> ByteKernels();
inline ByteKernel BestByteKernel() { return ByteKernels().back(); }

// Dot products of a few vectors of bytes, the queries, with many others, the
// rows, as many at once as the processor has registers for. Exact: what the
// vectorised kernels give is what a loop over the numbers gives, as long as
// 2^15 * dimension fits into 32 bits. Thread-safe.
class ByteProducts {
 public:
  ByteProducts() = default;
  // `queries` is [count x dimension], each in -127..127; neither is below 1.
  ByteProducts(absl::Span<const int8_t> queries, int64_t count,
               ByteKernel kernel = BestByteKernel());

  int64_t dimension() const { return dimension_; }
  int64_t count() const { return count_; }

  // From the products of a row to those of the next: count() rounded up to
  // whole registers.
  int64_t stride() const { return stride_; }

  // Writes the product of row r with query q to products[r * stride() + q]; the
  // rest of the stride is undefined. `rows` is [row_count x dimension()].
  void Multiply(const int8_t* rows, int64_t row_count, int32_t* products) const;

 private:
  ByteKernel kernel_ = ByteKernel::kPortable;
  int64_t dimension_ = 0;
  int64_t count_ = 0;
  int64_t stride_ = 0;
  // As the kernel reads them, see byte_products.cc.
  std::vector<uint8_t> values_;
  std::vector<int32_t> offsets_;
};

// Adds every row, times its weight, to `sum`: [dimension]. `rows` is
// [weights.size() x sum.size()]. Every kernel adds in the same order.
void AddWeightedSum(const int8_t* rows, absl::Span<const float> weights,
                    absl::Span<float> sum,
                    ByteKernel kernel = BestByteKernel());

}  // namespace quern
