#include "engine/fine/compressed_features.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/random_rows.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Rows that are mixtures of a few directions, as those of a picture's cells
// are, with some noise.
Matrix Mixtures(int64_t rows, int64_t columns, int64_t directions,
                float noise) {
  const Matrix parts = RandomRows(directions, columns, 1);
  const Matrix weights = RandomRows(rows, directions, 2);
  Matrix mixed = RandomRows(rows, columns, 3);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      float sum = noise * mixed.row(row)[i];
      for (int64_t part = 0; part < directions; ++part) {
        sum += weights.row(row)[part] * parts.row(part)[i];
      }
      mixed.row(row)[i] = sum;
    }
  }
  return mixed;
}

int64_t RowsOf(const CompressedFeatures& features) {
  return std::accumulate(
      features.blocks.begin(), features.blocks.end(), int64_t{0},
      [](int64_t sum, const auto& block) { return sum + block.rows; });
}

void ExpectSame(const CompressedFeatures& actual,
                const CompressedFeatures& expected) {
  EXPECT_EQ(actual.rows, expected.rows);
  EXPECT_EQ(actual.columns, expected.columns);
  ASSERT_EQ(actual.blocks.size(), expected.blocks.size());
  for (size_t i = 0; i < actual.blocks.size(); ++i) {
    EXPECT_EQ(actual.blocks[i].rows, expected.blocks[i].rows);
    EXPECT_EQ(actual.blocks[i].rank, expected.blocks[i].rank);
  }
  EXPECT_EQ(actual.scales, expected.scales);
  EXPECT_EQ(actual.coefficients, expected.coefficients);
  EXPECT_EQ(actual.basis, expected.basis);
}

CompressedFeatures Decoded(const std::string& bytes) {
  CompressedFeatures features;
  EXPECT_THAT(DecodeFeatures(bytes, features), IsOk());
  return features;
}

TEST(CompressedFeaturesTest, MixturesOfFewDirectionsComeBack) {
  for (const int64_t rows : {5, 49, 196, 300}) {
    const Matrix features = Mixtures(rows, 512, 4, 0.01F);
    const CompressedFeatures compressed = CompressUnitRows(features.view());
    EXPECT_EQ(RowsOf(compressed), rows);
    EXPECT_THAT(compressed.coefficients, Each(testing::Ge(-127)));
    EXPECT_THAT(compressed.basis,
                Each(testing::AllOf(testing::Ge(-7), testing::Le(7))));
    const Matrix back = Decompress(compressed);
    for (int64_t row = 0; row < rows; ++row) {
      EXPECT_GT(Cosine(back.row(row), features.row(row)), 0.99) << rows;
      double squares = 0;
      for (const float value : back.row(row)) squares += double{value} * value;
      EXPECT_NEAR(squares, 1, 0.03);
    }
  }
}

// What a row has alone comes back by its largest singular vectors alone.
TEST(CompressedFeaturesTest, RowsWithoutAnythingInCommonLoseMost) {
  const Matrix features = RandomRows(49, 512, 5);
  const Matrix back = Decompress(CompressUnitRows(features.view()));
  double mean = 0;
  for (int64_t row = 0; row < 49; ++row) {
    mean += Cosine(back.row(row), features.row(row)) / 49;
  }
  EXPECT_GT(mean, 0.4);
}

TEST(CompressedFeaturesTest, KeepsRowsOfZeros) {
  const Matrix zeros(3, 5);
  const CompressedFeatures compressed = CompressUnitRows(zeros.view());
  EXPECT_THAT(Decompress(compressed).row(1), ElementsAre(0, 0, 0, 0, 0));
  ExpectSame(Decoded(EncodeFeatures(compressed)), compressed);
}

TEST(CompressedFeaturesTest, ComesBackFromBytes) {
  for (const int64_t columns : {1, 2, 15, 512}) {
    for (const int64_t rows : {1, 2, 49, 64, 65, 300}) {
      const CompressedFeatures features =
          CompressUnitRows(RandomRows(rows, columns, 2).view());
      const std::string bytes = EncodeFeatures(features);
      EXPECT_TRUE(IsCompressed(bytes));
      ExpectSame(Decoded(bytes), features);
    }
  }
  const CompressedFeatures none = Decoded(EncodeFeatures({.columns = 7}));
  EXPECT_EQ(none.rows, 0);
  EXPECT_EQ(none.columns, 7);
}

TEST(CompressedFeaturesTest, MemoryIsUsedAgain) {
  const CompressedFeatures large =
      CompressUnitRows(RandomRows(49, 64, 2).view());
  const CompressedFeatures small = CompressUnitRows(RandomRows(3, 8, 2).view());
  CompressedFeatures features;
  ASSERT_THAT(DecodeFeatures(EncodeFeatures(large), features), IsOk());
  ASSERT_THAT(DecodeFeatures(EncodeFeatures(small), features), IsOk());
  ExpectSame(features, small);
}

TEST(CompressedFeaturesTest, RefusesOtherBytes) {
  const std::string good =
      EncodeFeatures(CompressUnitRows(RandomRows(3, 5, 3).view()));
  std::vector<std::string> damaged = {"", "\2", good + "x"};
  for (size_t length = 0; length < good.size(); ++length) {
    damaged.push_back(good.substr(0, length));
  }
  const auto change = [&](size_t at, char value) {
    std::string other = good;
    other[at] = value;
    damaged.push_back(other);
  };
  change(0, 1);        // Another version.
  change(4, '\xff');   // 2^32 rows or so.
  change(8, '\xff');   // 2^32 columns or so.
  change(9, 0);        // No rows in the block.
  change(9, 65);       // More than there may be.
  change(9, 4);        // More than there are.
  change(10, 0);       // No rank.
  change(10, 33);      // More than there may be.
  change(14, '\xff');  // A scale that is negative.
  const size_t rank = static_cast<unsigned char>(good[10]);
  change(11 + 4 * rank, '\x80');    // -128.
  change(good.size() - 1, '\x08');  // High: -8.
  change(good.size() - 1, '\x80');  // Low: -8.
  change(good.size() - 1, '\x98');  // What fills the row up is not 0.
  for (const std::string& bytes : damaged) {
    CompressedFeatures features;
    EXPECT_THAT(DecodeFeatures(bytes, features),
                StatusIs(absl::StatusCode::kDataLoss));
  }
}

}  // namespace
}  // namespace quern
