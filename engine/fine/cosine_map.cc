#include "engine/fine/cosine_map.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace quern {
namespace {

// Lanes that add up independently: without them the order of the additions
// would forbid vector instructions.
constexpr int64_t kLanes = 16;
using Lanes = std::array<float, kLanes>;

double Total(const Lanes& lanes) {
  double total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

float Cosine(const float* row, const float* query, int64_t size) {
  Lanes products = {};
  Lanes squares = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = row[i + lane];
      products[lane] += value * query[i + lane];
      squares[lane] += value * value;
    }
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) {
    products[lane] += row[i] * query[i];
    squares[lane] += row[i] * row[i];
  }
  const double norm = std::sqrt(Total(squares));
  return norm > 0 ? static_cast<float>(Total(products) / norm) : 0;
}

}  // namespace

void CosineMap(const MatrixView& cells, absl::Span<const float> query,
               absl::Span<float> scores) {
  for (int64_t i = 0; i < cells.rows; ++i) {
    scores[i] =
        Cosine(cells.data + i * cells.columns, query.data(), cells.columns);
  }
}

double PooledCosine(const MatrixView& cells, absl::Span<const int64_t> rows,
                    absl::Span<const float> query) {
  std::vector<float> sum(query.size());
  for (const int64_t i : rows) {
    const absl::Span<const float> row = cells.row(i);
    Lanes squares = {};
    size_t at = 0;
    for (; at + kLanes <= row.size(); at += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        squares[lane] += row[at + lane] * row[at + lane];
      }
    }
    for (size_t lane = 0; at < row.size(); ++at, ++lane) {
      squares[lane] += row[at] * row[at];
    }
    const double norm = std::sqrt(Total(squares));
    if (norm == 0) continue;
    const auto scale = static_cast<float>(1 / norm);
    for (size_t j = 0; j < row.size(); ++j) sum[j] += scale * row[j];
  }
  return Cosine(sum.data(), query.data(), cells.columns);
}

}  // namespace quern
