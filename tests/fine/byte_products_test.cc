#include "engine/fine/byte_products.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quern {
namespace {

std::vector<int8_t> RandomBytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> value(-127, 127);
  std::vector<int8_t> bytes(count);
  for (int8_t& byte : bytes) byte = static_cast<int8_t>(value(random));
  return bytes;
}

class ByteProductsTest : public testing::TestWithParam<ByteKernel> {
 protected:
  // Number by number.
  void ExpectProducts(const std::vector<int8_t>& queries, int64_t count,
                      const std::vector<int8_t>& rows) {
    const ByteProducts products(queries, count, GetParam());
    const int64_t dimension = products.dimension();
    ASSERT_EQ(products.count(), count);
    ASSERT_GE(products.stride(), count);
    const auto row_count = static_cast<int64_t>(rows.size()) / dimension;
    std::vector<int32_t> actual(row_count * products.stride());
    products.Multiply(rows.data(), row_count, actual.data());
    for (int64_t row = 0; row < row_count; ++row) {
      for (int64_t query = 0; query < count; ++query) {
        int64_t expected = 0;
        for (int64_t i = 0; i < dimension; ++i) {
          expected += int64_t{queries[query * dimension + i]} *
                      rows[row * dimension + i];
        }
        ASSERT_EQ(actual[row * products.stride() + query], expected)
            << "row " << row << " of " << row_count << ", query " << query
            << " of " << count << ", dimension " << dimension;
      }
    }
  }
};

// Also of sizes that fill no register.
TEST_P(ByteProductsTest, AreThoseOfALoop) {
  for (const int64_t dimension : {1, 3, 4, 8, 17, 63, 64, 65, 100, 512, 1027}) {
    for (const int64_t count : {1, 2, 3, 4, 14, 15, 16, 31, 40}) {
      for (const int64_t rows : {1, 2, 3, 4, 8, 49}) {
        ExpectProducts(RandomBytes(count * dimension, 1), count,
                       RandomBytes(rows * dimension, 2));
      }
    }
  }
}

TEST_P(ByteProductsTest, DoNotOverflow) {
  constexpr int64_t kDimension = 4096;
  for (const int64_t count : {1, 14}) {
    for (const int8_t query : {-127, 127}) {
      for (const int8_t row : {-127, 127}) {
        ExpectProducts(std::vector<int8_t>(count * kDimension, query), count,
                       std::vector<int8_t>(5 * kDimension, row));
      }
    }
  }
}

TEST_P(ByteProductsTest, WeightedSumsAreThoseOfALoop) {
  std::mt19937 random(3);
  std::normal_distribution<float> value;
  for (const size_t dimension : {1, 15, 64, 100, 512}) {
    for (const size_t rows : {0, 1, 5, 49}) {
      std::vector<float> weights(rows);
      for (float& weight : weights) weight = value(random);
      std::vector<float> start(dimension);
      for (float& number : start) number = value(random);
      const std::vector<int8_t> bytes =
          RandomBytes(static_cast<int64_t>(rows * dimension), 4);
      std::vector<float> expected = start;
      AddWeightedSum(bytes.data(), weights, absl::MakeSpan(expected),
                     ByteKernel::kPortable);
      std::vector<float> sum = start;
      AddWeightedSum(bytes.data(), weights, absl::MakeSpan(sum), GetParam());
      EXPECT_EQ(sum, expected);
      for (size_t i = 0; i < dimension; ++i) {
        double exact = start[i];
        for (size_t row = 0; row < rows; ++row) {
          exact += double{weights[row]} * bytes[row * dimension + i];
        }
        ASSERT_NEAR(sum[i], exact, 0.01);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(ThisProcessor, ByteProductsTest,
                         testing::ValuesIn(ByteKernels().begin(),
                                           ByteKernels().end()),
                         [](const auto& tested) {
                           switch (tested.param) {
                             case ByteKernel::kAvx2:
                               return "Avx2";
                             case ByteKernel::kAvx512Vnni:
                               return "Avx512Vnni";
                             default:
                               return "Portable";
                           }
                         });

}  // namespace
}  // namespace quern
