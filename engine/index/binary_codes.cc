#include "engine/index/binary_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "engine/index/error_bound.h"

namespace quern {
namespace {

// Of fewer bits the error would be more than what they save.
constexpr size_t kMinBits = 512;
constexpr int kRounds = 2;
constexpr size_t kTableEntries = 1 << kBinaryGroupBits;
// The sum of a group's steps is within 4 * kSteps either way: a byte.
constexpr int kSteps = 31;

size_t BitsOf(int64_t dimension) {
  return std::max(kMinBits, std::bit_ceil(static_cast<size_t>(dimension)));
}

}  // namespace

size_t BinaryCoder::BlockBytes(int64_t dimension) {
  return (BitsOf(dimension) / 8 + 2 * sizeof(float)) * kBinaryBlockRows;
}

BinaryCoder::BinaryCoder(int64_t dimension)
    : bits_(BitsOf(dimension)), block_bytes_(BlockBytes(dimension)) {
  // Files have codes: these signs are part of their format.
  std::mt19937_64 random(static_cast<uint64_t>(dimension));
  signs_.resize(kRounds * bits_);
  for (float& sign : signs_) sign = (random() >> 63) != 0 ? 1.0F : -1.0F;
}

float BinaryCoder::Turn(absl::Span<const float> vector, float* turned) const {
  const double norm = std::sqrt(SquaredNorm(vector.data(), vector.size()));
  std::fill_n(turned, bits_, 0.0F);
  if (norm == 0) return 0;
  // Each round grows the norm by the root of the number of values.
  static_assert(kRounds == 2);
  const double scale = 1 / (norm * static_cast<double>(bits_));
  std::transform(vector.begin(), vector.end(), turned, [scale](float value) {
    return static_cast<float>(value * scale);
  });
  for (int round = 0; round < kRounds; ++round) {
    const float* const signs = &signs_[round * bits_];
    for (size_t i = 0; i < bits_; ++i) turned[i] *= signs[i];
    HadamardTransform(turned, bits_);
  }
  return static_cast<float>(norm);
}

void BinaryCoder::Encode(absl::Span<const float> vector, size_t row,
                         uint8_t* block) const {
  std::vector<float> turned(bits_);
  const double norm = Turn(vector, turned.data());
  constexpr size_t kHalf = kBinaryBlockRows / 2;
  const size_t shift = row < kHalf ? 0 : kBinaryGroupBits;
  // Sums apart, so that additions do not wait for each other.
  std::array<double, kBinaryGroupBits> sums{};
  for (size_t group = 0; group < groups(); ++group) {
    const float* const values = &turned[group * kBinaryGroupBits];
    unsigned bits = 0;
    for (size_t i = 0; i < kBinaryGroupBits; ++i) {
      bits |= static_cast<unsigned>(values[i] > 0) << i;
      sums[i] += std::abs(values[i]);
    }
    block[group * kHalf + row % kHalf] |= static_cast<uint8_t>(bits << shift);
  }
  const double magnitudes = std::accumulate(sums.begin(), sums.end(), 0.0);
  if (norm == 0) return;
  // Of what the signs lose, which lies at right angles to the vector, any
  // direction is as likely.
  const auto count = static_cast<double>(bits_);
  const double variance =
      std::max(0.0, (count / (magnitudes * magnitudes) - 1) / (count - 1));
  auto* const factors = reinterpret_cast<float*>(block + groups() * kHalf);
  factors[row] = static_cast<float>(norm / magnitudes);
  factors[kBinaryBlockRows + row] =
      static_cast<float>(norm * (std::sqrt(variance) + kRoundingError));
}

BinaryQuery::BinaryQuery(const BinaryCoder& coder,
                         absl::Span<const float> vector)
    : tables_(coder.groups() * kTableEntries) {
  std::vector<float> turned(coder.bits());
  norm_ = coder.Turn(vector, turned.data());
  // The tables have no negative numbers.
  constexpr int kOffset = kBinaryGroupBits * kSteps;
  probe_ = {.groups = coder.groups(),
            .start = -static_cast<float>(coder.groups() * kOffset)};
  if (norm_ > 0) {
    probe_.step = LargestMagnitude(turned.data(), turned.size()) / kSteps;
  }
  std::vector<int8_t> steps(turned.size());
  const float error =
      Quantize(turned.data(), turned.size(), probe_.step, steps.data()).error;
  probe_.squared_error = error * error;
  for (size_t group = 0; group < probe_.groups; ++group) {
    const int8_t* const values = &steps[group * kBinaryGroupBits];
    uint8_t* const table = &tables_[group * kTableEntries];
    // All values are taken away; each bit that is set adds its own twice.
    table[0] = static_cast<uint8_t>(
        kOffset - std::accumulate(values, values + kBinaryGroupBits, 0));
    for (size_t bit = 0; bit < kBinaryGroupBits; ++bit) {
      const size_t filled = size_t{1} << bit;
      for (size_t n = 0; n < filled; ++n) {
        table[filled + n] = static_cast<uint8_t>(table[n] + 2 * values[bit]);
      }
    }
  }
}

size_t BinaryQuery::MayReach(float threshold, float sigmas,
                             const BinaryRows& rows, uint32_t first,
                             size_t count, uint32_t* list) const {
  BinaryProbe probe = probe_;
  probe.sigmas = sigmas;
  probe.tables = tables_.data();
  // Of a query of norm 1. One of norm 0 has a product of 0 with all.
  probe.least =
      norm_ > 0 ? threshold / norm_ : -std::numeric_limits<float>::infinity();
  size_t listed = 0;
  const size_t end = first + count;
  size_t row = first;
  for (; row + kBinaryBlockRows <= end; row += kBinaryBlockRows) {
    uint32_t may = BlockMayReach(
        probe, rows.blocks + row / kBinaryBlockRows * rows.block_bytes);
    for (; may != 0; may &= may - 1) {
      list[listed++] = static_cast<uint32_t>(row) +
                       static_cast<uint32_t>(std::countr_zero(may));
    }
  }
  for (; row < end; ++row) list[listed++] = static_cast<uint32_t>(row);
  return listed;
}

}  // namespace quern
