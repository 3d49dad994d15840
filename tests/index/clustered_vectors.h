#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "engine/base/matrix.h"

namespace quern {

// Rows of norm 1 around random centres, those of one centre near each other: in
// this, unlike independent values, near and far neighbours differ as those of
// real embeddings do. The same for the same `seed`; rows are drawn from the
// same centres for the same `centre_seed`.
inline Matrix ClusteredVectors(int64_t rows, int64_t dimension, int64_t centres,
                               unsigned seed, unsigned centre_seed = 1) {
  constexpr float kSpread = 0.7F;  // Of a row's offset from its centre.
  std::normal_distribution<float> normal;
  std::mt19937 centre_random(centre_seed);
  Matrix means(centres, dimension);
  for (int64_t i = 0; i < centres; ++i) {
    for (float& value : means.row(i)) value = normal(centre_random);
  }
  std::mt19937 random(seed);
  Matrix vectors(rows, dimension);
  for (int64_t i = 0; i < rows; ++i) {
    const auto centre = means.row(static_cast<int64_t>(random() % centres));
    double squares = 0;
    for (int64_t j = 0; j < dimension; ++j) {
      const float value = centre[j] + kSpread * normal(random);
      vectors.row(i)[j] = value;
      squares += static_cast<double>(value) * value;
    }
    const auto scale = static_cast<float>(1 / std::sqrt(squares));
    for (float& value : vectors.row(i)) value *= scale;
  }
  return vectors;
}

}  // namespace quern
