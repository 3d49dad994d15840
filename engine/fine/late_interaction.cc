#include "engine/fine/late_interaction.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quern {
namespace {

constexpr int32_t kOffset = 128;

// Rows and cells that are multiplied at once: 4 + 4 loads serve 16 products,
// and their sums fill half of the registers.
constexpr int64_t kTile = 4;

// Writes the dot products of kTile rows with `kCells` cells to
// dots[row * kTile + cell]. Written so that compilers make of it the
// instructions for dot products of bytes; tests/bench/fine_bench.cc tells when
// they do not.
template <int64_t kCells>
[[gnu::always_inline]] inline void TileDots(const uint8_t* __restrict rows,
                                            const int8_t* __restrict cells,
                                            int64_t dimension,
                                            int32_t* __restrict dots) {
  int32_t sums[kTile][kCells] = {};
  for (int64_t i = 0; i < dimension; ++i) {
#pragma GCC unroll 4
    for (int64_t row = 0; row < kTile; ++row) {
#pragma GCC unroll 4
      for (int64_t cell = 0; cell < kCells; ++cell) {
        sums[row][cell] += int32_t{rows[row * dimension + i]} *
                           int32_t{cells[cell * dimension + i]};
      }
    }
  }
  for (int64_t row = 0; row < kTile; ++row) {
    for (int64_t cell = 0; cell < kCells; ++cell) {
      dots[row * kTile + cell] = sums[row][cell];
    }
  }
}

// The dot products of `rows` rows, a multiple of kTile, with up to kTile cells.
[[gnu::always_inline]] inline void DotsOf(const uint8_t* values, int64_t rows,
                                          const int8_t* cells, int64_t count,
                                          int64_t dimension, int32_t* dots) {
  for (int64_t row = 0; row < rows; row += kTile) {
    const uint8_t* tile = values + row * dimension;
    if (count == kTile) {
      TileDots<kTile>(tile, cells, dimension, dots + row * kTile);
      continue;
    }
    for (int64_t cell = 0; cell < count; ++cell) {
      TileDots<1>(tile, cells + cell * dimension, dimension,
                  dots + row * kTile + cell);
    }
  }
}

using Dots = void (*)(const uint8_t*, int64_t, const int8_t*, int64_t, int64_t,
                      int32_t*);

void PortableDots(const uint8_t* values, int64_t rows, const int8_t* cells,
                  int64_t count, int64_t dimension, int32_t* dots) {
  DotsOf(values, rows, cells, count, dimension, dots);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void Avx2Dots(const uint8_t* values, int64_t rows,
                                      const int8_t* cells, int64_t count,
                                      int64_t dimension, int32_t* dots) {
  DotsOf(values, rows, cells, count, dimension, dots);
}

[[gnu::target(
    "avx512f,avx512bw,avx512vl,avx512vnni,prefer-vector-width=512")]] void
VnniDots(const uint8_t* values, int64_t rows, const int8_t* cells,
         int64_t count, int64_t dimension, int32_t* dots) {
  DotsOf(values, rows, cells, count, dimension, dots);
}
#endif

Dots BestDots() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return VnniDots;
  }
  if (__builtin_cpu_supports("avx2")) return Avx2Dots;
#endif
  return PortableDots;
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
  QuantizedFeatures quantized = QuantizeUnitRows(tokens);
  LateInteraction scorer;
  scorer.dimension_ = tokens.columns;
  scorer.tokens_ = tokens.rows;
  scorer.scales_ = std::move(quantized.scales);
  scorer.values_.reserve(scorer.rows() * scorer.dimension_);
  for (const int8_t value : quantized.values) {
    scorer.values_.push_back(static_cast<uint8_t>(value + kOffset));
  }
  scorer.values_.insert(scorer.values_.end(), scorer.dimension_, 1);
  scorer.values_.resize(scorer.rows() * scorer.dimension_);
  return scorer;
}

int64_t LateInteraction::rows() const {
  return (tokens_ + 1 + kTile - 1) / kTile * kTile;
}

float LateInteraction::Score(const QuantizedFeatures& cells) const {
  static const Dots kDots = BestDots();
  thread_local std::vector<int32_t> dots;
  thread_local std::vector<float> best;
  dots.resize(rows() * kTile);
  best.assign(tokens_, -std::numeric_limits<float>::infinity());
  for (int64_t first = 0; first < cells.rows; first += kTile) {
    const int64_t count = std::min(kTile, cells.rows - first);
    kDots(values_.data(), rows(), cells.row(first).data(), count, dimension_,
          dots.data());
    const int32_t* sums = dots.data() + tokens_ * kTile;
    for (int64_t cell = 0; cell < count; ++cell) {
      const float scale = cells.scales[first + cell];
      const int32_t offset = kOffset * sums[cell];
      for (int64_t token = 0; token < tokens_; ++token) {
        const int32_t dot = dots[token * kTile + cell] - offset;
        best[token] = std::max(best[token], scale * static_cast<float>(dot));
      }
    }
  }
  float sum = 0;
  for (int64_t token = 0; token < tokens_; ++token) {
    sum += best[token] * scales_[token];
  }
  return sum / static_cast<float>(tokens_);
}

float LateInteraction::ScoreScalar(const QuantizedFeatures& cells) const {
  float sum = 0;
  for (int64_t token = 0; token < tokens_; ++token) {
    float best = -std::numeric_limits<float>::infinity();
    for (int64_t cell = 0; cell < cells.rows; ++cell) {
      int64_t dot = 0;
      for (int64_t i = 0; i < dimension_; ++i) {
        dot += (int64_t{values_[token * dimension_ + i]} - kOffset) *
               int64_t{cells.row(cell)[i]};
      }
      best = std::max(best, cells.scales[cell] * static_cast<float>(dot));
    }
    sum += best * scales_[token];
  }
  return sum / static_cast<float>(tokens_);
}

}  // namespace quern
