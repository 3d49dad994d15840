#include "client/cli/pairwise_sum.h"

#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace quern::cli {
namespace {

// NumPy 2.4 added these up: 1 / (i + 1), but -0.1 * i where 3 divides i. Most
// sums differ in the last bits from adding one after the other.
TEST(PairwiseSumTest, EqualsNumpyBitForBit) {
  const std::vector<std::pair<int, double>> golden = {
      {1, 0x0.0p+0},
      {7, 0x1.333333333332ep-2},
      {8, 0x1.b333333333330p-2},
      {9, 0x1.127d27d27d27cp-1},
      {127, -0x1.0bc56852f5270p+8},
      {128, -0x1.0bc36852f526fp+8},
      {129, -0x1.0bc16c4b05073p+8},
      {136, -0x1.3353529b5e654p+8},
      {1000, -0x1.049b2e82e1866p+14},
      {4651, -0x1.60267e1ff2134p+18}};
  for (const auto& [count, sum] : golden) {
    std::vector<double> values;
    for (int i = 0; i < count; ++i) {
      values.push_back(i % 3 == 0 ? -0.1 * i : 1.0 / (i + 1));
    }
    EXPECT_EQ(PairwiseSum(values), sum) << count;
    EXPECT_EQ(PairwiseMean(values), sum / count) << count;
  }
}

TEST(PairwiseSumTest, NothingIsZero) { EXPECT_EQ(PairwiseSum({}), 0); }

}  // namespace
}  // namespace quern::cli
