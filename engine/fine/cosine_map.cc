#include "engine/fine/cosine_map.h"

#include <array>
#include <cmath>
#include <cstdint>

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

}  // namespace quern
