#include "engine/fine/quantized_features.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/random_rows.h"

namespace quern {
namespace {

using ::testing::ElementsAre;

TEST(QuantizedFeaturesTest, ScalesTheLargestNumberTo127) {
  const Matrix rows(2, 2, {3, -4, 0, 0.5F});
  const QuantizedFeatures quantized = QuantizeUnitRows(rows.view());
  EXPECT_THAT(quantized.values, ElementsAre(95, -127, 0, 127));
  EXPECT_FLOAT_EQ(quantized.scales[0], 0.8F / 127);
  EXPECT_FLOAT_EQ(quantized.scales[1], 1.0F / 127);
}

TEST(QuantizedFeaturesTest, KeepsTheDirectionAtLengthOne) {
  const Matrix rows = RandomRows(20, 512, 1);
  const Matrix back = Dequantize(QuantizeUnitRows(rows.view()));
  for (int64_t row = 0; row < rows.rows(); ++row) {
    EXPECT_GT(Cosine(rows.row(row), back.row(row)), 0.9999);
    double squares = 0;
    for (const float value : back.row(row)) squares += double{value} * value;
    EXPECT_NEAR(squares, 1, 0.01);
  }
}

TEST(QuantizedFeaturesTest, KeepsARowOfZeros) {
  const Matrix rows(1, 3);
  const QuantizedFeatures quantized = QuantizeUnitRows(rows.view());
  EXPECT_EQ(quantized.scales[0], 0);
  EXPECT_THAT(Dequantize(quantized).row(0), ElementsAre(0, 0, 0));
}

TEST(QuantizedFeaturesTest, ComesBackFromBytes) {
  const QuantizedFeatures features =
      QuantizeUnitRows(RandomRows(49, 16, 2).view());
  const std::string bytes = EncodeFeatures(features);
  EXPECT_EQ(bytes.size(), 9 + 49 * (4 + 16));
  const absl::StatusOr<QuantizedFeatures> decoded = DecodeFeatures(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->rows, 49);
  EXPECT_EQ(decoded->columns, 16);
  EXPECT_EQ(decoded->values, features.values);
  EXPECT_EQ(decoded->scales, features.scales);
}

TEST(QuantizedFeaturesTest, ComesBackWithoutRows) {
  const absl::StatusOr<QuantizedFeatures> decoded =
      DecodeFeatures(EncodeFeatures({.rows = 0, .columns = 7}));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->rows, 0);
}

TEST(QuantizedFeaturesTest, RefusesOtherBytes) {
  const std::string good =
      EncodeFeatures(QuantizeUnitRows(RandomRows(3, 5, 3).view()));
  std::vector<std::string> damaged = {"", "x", good + "x"};
  for (size_t length = 0; length < good.size(); ++length) {
    damaged.push_back(good.substr(0, length));
  }
  std::string other = good;
  other[0] = 2;  // Another version.
  damaged.push_back(other);
  other = good;
  other[4] = '\xff';  // 2^32 rows or so.
  damaged.push_back(other);
  other = good;
  other[12] = '\xff';  // A scale that is negative.
  damaged.push_back(other);
  other = good;
  other.back() = '\x80';  // -128.
  damaged.push_back(other);
  for (const std::string& bytes : damaged) {
    EXPECT_EQ(DecodeFeatures(bytes).status().code(),
              absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace quern
