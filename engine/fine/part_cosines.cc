#include "engine/fine/part_cosines.h"

#include <cstdint>

namespace quern {
namespace {

// Sets `cosines` by the products of the query with the basis.
void OfCompressed(const CompressedFeatures& features, float query_scale,
                  absl::Span<const int32_t> products,
                  std::vector<float>& cosines) {
  const int8_t* coefficients = features.coefficients.data();
  float* of_block = cosines.data();
  size_t next = 0;
  for (const CompressedFeatures::Block& block : features.blocks) {
    for (int64_t k = 0; k < block.rank; ++k, ++next) {
      const float weight = query_scale * features.scales[next] *
                           static_cast<float>(products[next]);
      for (int64_t row = 0; row < block.rows; ++row) {
        of_block[row] += weight * static_cast<float>(coefficients[row]);
      }
      coefficients += block.rows;
    }
    of_block += block.rows;
  }
}

// The weight that each row of the basis has in the sum.
std::vector<float> BasisWeights(const CompressedFeatures& features,
                                absl::Span<const float> weights) {
  std::vector<float> of_basis;
  of_basis.reserve(features.ranks());
  const int8_t* coefficients = features.coefficients.data();
  for (const CompressedFeatures::Block& block : features.blocks) {
    for (int64_t k = 0; k < block.rank; ++k) {
      float sum = 0;
      for (int64_t row = 0; row < block.rows; ++row) {
        sum += weights[row] * static_cast<float>(coefficients[row]);
      }
      of_basis.push_back(sum * features.scales[of_basis.size()]);
      coefficients += block.rows;
    }
    weights.remove_prefix(block.rows);
  }
  return of_basis;
}

}  // namespace

PartCosines::PartCosines(absl::Span<const float> query) {
  const QuantizedFeatures quantized =
      QuantizeUnitRows({.data = query.data(),
                        .rows = 1,
                        .columns = static_cast<int64_t>(query.size())});
  products_ = ByteProducts(quantized.values, 1);
  scale_ = quantized.scales.front();
}

void PartCosines::Of(const PartsView& parts,
                     std::vector<float>& cosines) const {
  thread_local std::vector<int32_t> products;
  const CompressedFeatures* const compressed = parts.compressed;
  const int64_t rows =
      compressed != nullptr ? compressed->ranks() : parts.features.rows;
  products.resize(rows * products_.stride());
  products_.Multiply(
      compressed != nullptr ? compressed->basis.data() : parts.features.values,
      rows, products.data());
  // To the products with the query alone.
  for (int64_t row = 0; row < rows; ++row) {
    products[row] = products[row * products_.stride()];
  }
  cosines.assign(parts.features.rows, 0);
  if (compressed != nullptr) {
    OfCompressed(*compressed, scale_, products, cosines);
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    cosines[row] =
        parts.features.scales[row] * scale_ * static_cast<float>(products[row]);
  }
}

std::vector<float> WeightedRows(const PartsView& parts,
                                absl::Span<const float> weights) {
  std::vector<float> sum(parts.features.columns);
  if (parts.compressed != nullptr) {
    AddWeightedSum(parts.compressed->basis.data(),
                   BasisWeights(*parts.compressed, weights),
                   absl::MakeSpan(sum));
    return sum;
  }
  std::vector<float> scaled(weights.begin(), weights.end());
  for (size_t row = 0; row < scaled.size(); ++row) {
    scaled[row] *= parts.features.scales[row];
  }
  AddWeightedSum(parts.features.values, scaled, absl::MakeSpan(sum));
  return sum;
}

}  // namespace quern
