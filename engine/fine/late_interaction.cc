#include "engine/fine/late_interaction.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quern {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// So that their products stay in the nearest cache.
constexpr int64_t kRowsAtOnce = 49;

// Memory that a thread uses again.
struct Scratch {
  std::vector<int32_t> products;
  std::vector<float> basis;  // [rank x stride]
  std::vector<float> row;    // [stride]
  std::vector<float> best;   // [stride]
};

Scratch& OfThisThread() {
  thread_local Scratch scratch;
  return scratch;
}

}  // namespace

absl::StatusOr<LateInteraction> LateInteraction::Create(MatrixView tokens) {
  if (tokens.rows < 1) return absl::InvalidArgumentError("there are no tokens");
  for (int64_t i = 0; i < tokens.rows; ++i) {
    double squares = 0;
    for (const float value : tokens.row(i)) squares += double{value} * value;
    if (!(squares > 0) || !std::isfinite(squares)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the vector of token ", i, " has the squared length ",
                       squares, ": it must be finite and above zero"));
    }
  }
  LateInteraction scorer;
  scorer.tokens_ = QuantizeUnitRows(tokens);
  scorer.products_ = ByteProducts(scorer.tokens_.values, tokens.rows);
  return scorer;
}

float LateInteraction::MeanOf(const float* best) const {
  float sum = 0;
  for (int64_t token = 0; token < tokens_.rows; ++token) {
    sum += best[token] * tokens_.scales[token];
  }
  return sum / static_cast<float>(tokens_.rows);
}

float LateInteraction::Score(const QuantizedView& cells) const {
  Scratch& scratch = OfThisThread();
  const int64_t stride = products_.stride();
  scratch.products.resize(kRowsAtOnce * stride);
  scratch.best.assign(stride, kLowest);
  float* const best = scratch.best.data();
  for (int64_t first = 0; first < cells.rows; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, cells.rows - first);
    products_.Multiply(cells.row(first).data(), count, scratch.products.data());
    for (int64_t row = 0; row < count; ++row) {
      const int32_t* const products = scratch.products.data() + row * stride;
      const float scale = cells.scales[first + row];
      for (int64_t i = 0; i < stride; ++i) {
        best[i] = std::max(best[i], scale * static_cast<float>(products[i]));
      }
    }
  }
  return MeanOf(best);
}

float LateInteraction::Score(const CompressedFeatures& cells) const {
  Scratch& scratch = OfThisThread();
  const int64_t stride = products_.stride();
  scratch.best.assign(stride, kLowest);
  scratch.products.resize(CompressedFeatures::kMaxBlockRank * stride);
  scratch.basis.resize(CompressedFeatures::kMaxBlockRank * stride);
  float* const best = scratch.best.data();
  const int8_t* basis = cells.basis.data();
  const int8_t* coefficients = cells.coefficients.data();
  const float* scales = cells.scales.data();
  for (const CompressedFeatures::Block& block : cells.blocks) {
    products_.Multiply(basis, block.rank, scratch.products.data());
    for (int64_t k = 0; k < block.rank; ++k) {
      for (int64_t i = k * stride; i < (k + 1) * stride; ++i) {
        scratch.basis[i] = scales[k] * static_cast<float>(scratch.products[i]);
      }
    }
    for (int64_t row = 0; row < block.rows; ++row) {
      scratch.row.assign(stride, 0);
      float* const sums = scratch.row.data();
      for (int64_t k = 0; k < block.rank; ++k) {
        const auto weight =
            static_cast<float>(coefficients[k * block.rows + row]);
        const float* const values = scratch.basis.data() + k * stride;
        for (int64_t i = 0; i < stride; ++i) sums[i] += weight * values[i];
      }
      for (int64_t i = 0; i < stride; ++i) {
        best[i] = std::max(best[i], sums[i]);
      }
    }
    basis += block.rank * cells.columns;
    coefficients += block.rank * block.rows;
    scales += block.rank;
  }
  return MeanOf(best);
}

float LateInteraction::ScoreScalar(const QuantizedView& cells) const {
  std::vector<float> best(tokens_.rows, kLowest);
  for (int64_t token = 0; token < tokens_.rows; ++token) {
    for (int64_t cell = 0; cell < cells.rows; ++cell) {
      int64_t product = 0;
      for (int64_t i = 0; i < cells.columns; ++i) {
        product += int64_t{tokens_.row(token)[i]} * cells.row(cell)[i];
      }
      best[token] = std::max(best[token],
                             cells.scales[cell] * static_cast<float>(product));
    }
  }
  return MeanOf(best.data());
}

float LateInteraction::ScoreScalar(const CompressedFeatures& cells) const {
  std::vector<float> best(tokens_.rows, kLowest);
  for (int64_t token = 0; token < tokens_.rows; ++token) {
    size_t first = 0;         // Of the block's ranks.
    size_t coefficients = 0;  // Likewise of its coefficients.
    for (const CompressedFeatures::Block& block : cells.blocks) {
      for (int64_t row = 0; row < block.rows; ++row) {
        float sum = 0;
        for (int64_t k = 0; k < block.rank; ++k) {
          int64_t product = 0;
          for (int64_t i = 0; i < cells.columns; ++i) {
            product += int64_t{tokens_.row(token)[i]} *
                       cells.basis[(first + k) * cells.columns + i];
          }
          const float basis =
              cells.scales[first + k] * static_cast<float>(product);
          sum += static_cast<float>(
                     cells.coefficients[coefficients + k * block.rows + row]) *
                 basis;
        }
        best[token] = std::max(best[token], sum);
      }
      first += block.rank;
      coefficients += block.rank * block.rows;
    }
  }
  return MeanOf(best.data());
}

}  // namespace quern
