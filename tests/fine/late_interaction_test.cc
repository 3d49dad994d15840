#include "engine/fine/late_interaction.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"

#include "tests/support/random_rows.h"

namespace quern {
namespace {

// FILIP's equation in double precision, before any quantisation.
double Exact(const Matrix& tokens, const Matrix& cells) {
  double sum = 0;
  for (int64_t token = 0; token < tokens.rows(); ++token) {
    double best = -1;
    for (int64_t cell = 0; cell < cells.rows(); ++cell) {
      best = std::max(best, Cosine(tokens.row(token), cells.row(cell)));
    }
    sum += best;
  }
  return sum / static_cast<double>(tokens.rows());
}

TEST(LateInteractionTest, IsTheMeanOverTokensOfTheBestCell) {
  // The first token is the second cell, the second at 45 degrees to both.
  const Matrix tokens(2, 2, {0, 2, 1, 1});
  const Matrix cells(2, 2, {3, 0, 0, 1});
  const auto scorer = LateInteraction::Create(tokens.view());
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  EXPECT_NEAR(scorer->Score(QuantizeUnitRows(cells.view())),
              (1 + std::sqrt(0.5)) / 2, 1e-6);
}

TEST(LateInteractionTest, MayBeNegative) {
  const Matrix token(1, 1, {2});
  const Matrix cell(1, 1, {-3});
  EXPECT_NEAR(LateInteraction::Create(token.view())
                  ->Score(QuantizeUnitRows(cell.view())),
              -1, 1e-6);
}

// Also of dimensions that fill no register.
TEST(LateInteractionTest, EqualsTheEquation) {
  for (const int64_t dimension : {1, 3, 17, 64, 100, 512, 1027}) {
    const Matrix tokens = RandomRows(13, dimension, 1);
    const auto scorer = LateInteraction::Create(tokens.view());
    ASSERT_TRUE(scorer.ok()) << scorer.status();
    EXPECT_EQ(scorer->dimension(), dimension);
    for (uint32_t seed = 2; seed < 8; ++seed) {
      const Matrix cells = RandomRows(49, dimension, seed);
      const QuantizedFeatures quantized = QuantizeUnitRows(cells.view());
      EXPECT_EQ(scorer->Score(quantized), scorer->ScoreScalar(quantized));
      EXPECT_NEAR(scorer->Score(quantized), Exact(tokens, cells), 0.005);
    }
  }
}

// Products with the basis say what products with the rows would have said.
TEST(LateInteractionTest, EqualsTheEquationOfCompressedCells) {
  for (const int64_t dimension : {1, 3, 17, 64, 512}) {
    for (const int64_t tokens : {1, 2, 13, 16, 40}) {
      const Matrix text = RandomRows(tokens, dimension, 1);
      const auto scorer = LateInteraction::Create(text.view());
      ASSERT_TRUE(scorer.ok()) << scorer.status();
      for (const int64_t rows : {1, 49, 130}) {
        const CompressedFeatures compressed =
            CompressUnitRows(RandomRows(rows, dimension, 2).view());
        const float score = scorer->Score(compressed);
        EXPECT_EQ(score, scorer->ScoreScalar(compressed));
        const Matrix cells = Decompress(compressed);
        double mean = 0;
        for (int64_t token = 0; token < tokens; ++token) {
          double best = -1;
          double length = 0;
          for (const float value : text.row(token)) {
            length += double{value} * value;
          }
          for (int64_t cell = 0; cell < rows; ++cell) {
            double product = 0;
            for (int64_t i = 0; i < dimension; ++i) {
              product += double{text.row(token)[i]} * cells.row(cell)[i];
            }
            best = std::max(best, product / std::sqrt(length));
          }
          mean += best / static_cast<double>(tokens);
        }
        EXPECT_NEAR(score, mean, 0.005);
      }
    }
  }
}

// 127 and 128 + 127 everywhere: the largest sums there can be.
TEST(LateInteractionTest, DoesNotOverflow) {
  const Matrix ones(1, 4096, std::vector<float>(4096, 1));
  const auto scorer = LateInteraction::Create(ones.view());
  EXPECT_NEAR(scorer->Score(QuantizeUnitRows(ones.view())), 1, 1e-4);
  const Matrix minus(1, 4096, std::vector<float>(4096, -1));
  EXPECT_NEAR(scorer->Score(QuantizeUnitRows(minus.view())), -1, 1e-4);
}

TEST(LateInteractionTest, RefusesTokensWithoutADirection) {
  EXPECT_FALSE(LateInteraction::Create({}).ok());
  const Matrix zero(1, 2);
  EXPECT_FALSE(LateInteraction::Create(zero.view()).ok());
  const Matrix nan(1, 1, {std::numeric_limits<float>::quiet_NaN()});
  EXPECT_FALSE(LateInteraction::Create(nan.view()).ok());
}

}  // namespace
}  // namespace quern
