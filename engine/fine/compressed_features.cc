#include "engine/fine/compressed_features.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/base/little_endian.h"
#include "engine/base/status_macros.h"
#include "engine/fine/byte_products.h"

namespace quern {
namespace {

constexpr char kVersion = 2;
constexpr size_t kHeaderBytes = 1 + 2 * sizeof(uint32_t);
constexpr int8_t kLargestCoefficient = 127;

// Of a block; 49 rows of 512 columns take 4,028 bytes. Found on mosaics and
// scenes, see README.md. The second of two for one row refines the first.
int64_t MaxRank(int64_t rows) {
  constexpr int64_t kFewest = 5;
  constexpr int64_t kRowsPerRank = 6;
  return std::min(2 * rows, kFewest + rows / kRowsPerRank);
}

double Squares(absl::Span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  return squares;
}

// Lanes that add up independently, so that they can be vector instructions.
float Dot(const float* a, const float* b, int64_t size) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += a[i + lane] * b[i + lane];
    }
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) lanes[lane] += a[i] * b[i];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

void AddScaled(const float* values, float scale, int64_t size, float* sum) {
  for (int64_t i = 0; i < size; ++i) sum[i] += scale * values[i];
}

void ScaleToUnit(float* row, int64_t size) {
  const double squares = Squares({row, static_cast<size_t>(size)});
  if (squares == 0) return;
  const double length = std::sqrt(squares);
  for (int64_t i = 0; i < size; ++i) {
    row[i] = static_cast<float>(row[i] / length);
  }
}

// Writes `values` / scale, rounded and held within `largest`, and returns the
// scale: of those by which the greatest value times one of `clips` becomes
// `largest`, the one that loses least.
float RoundBest(absl::Span<const float> values, int8_t largest,
                absl::Span<const float> clips, int8_t* rounded) {
  float top = 0;
  for (const float value : values) top = std::max(top, std::abs(value));
  if (top == 0) {
    std::fill_n(rounded, values.size(), int8_t{0});
    return 0;
  }
  float best_scale = 0;
  double best_fit = -1;
  for (const float clip : clips) {
    const float scale = top * clip / static_cast<float>(largest);
    // What of `values` lies in the direction of the rounded ones.
    float product = 0;
    float squares = 0;
    for (const float value : values) {
      const float number =
          std::clamp(std::nearbyint(value / scale),
                     -static_cast<float>(largest), static_cast<float>(largest));
      product += number * value;
      squares += number * number;
    }
    const double fit = squares > 0 ? double{product} * product / squares : 0;
    if (fit > best_fit) {
      best_fit = fit;
      best_scale = scale;
    }
  }
  for (size_t i = 0; i < values.size(); ++i) {
    rounded[i] = static_cast<int8_t>(
        std::clamp(std::nearbyint(values[i] / best_scale),
                   -static_cast<float>(largest), static_cast<float>(largest)));
  }
  return best_scale;
}

// What is left of a block, and the products of its rows with each other.
class Residual {
 public:
  explicit Residual(MatrixView rows) : rest_(rows.rows, rows.columns) {
    for (int64_t row = 0; row < rows.rows; ++row) {
      std::copy(rows.row(row).begin(), rows.row(row).end(),
                rest_.row(row).begin());
      ScaleToUnit(rest_.row(row).data(), rows.columns);
    }
    products_ = Matrix(rows.rows, rows.rows);
    for (int64_t a = 0; a < rows.rows; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        products_.row(a)[b] = products_.row(b)[a] =
            Dot(rest_.row(a).data(), rest_.row(b).data(), rows.columns);
      }
    }
  }

  // The sum of the squares.
  double Energy() const {
    double sum = 0;
    for (int64_t i = 0; i < products_.rows(); ++i) sum += products_.row(i)[i];
    return sum;
  }

  // The strongest direction of what is left: [columns].
  std::vector<float> Direction() const {
    constexpr int kIterations = 24;
    const int64_t rows = rest_.rows();
    int64_t largest = 0;
    for (int64_t i = 1; i < rows; ++i) {
      if (products_.row(i)[i] > products_.row(largest)[largest]) largest = i;
    }
    std::vector<float> weights(products_.row(largest).begin(),
                               products_.row(largest).end());
    std::vector<float> next(rows);
    for (int iteration = 0; iteration < kIterations; ++iteration) {
      ScaleToUnit(weights.data(), rows);
      for (int64_t i = 0; i < rows; ++i) {
        next[i] = Dot(products_.row(i).data(), weights.data(), rows);
      }
      weights.swap(next);
    }
    ScaleToUnit(weights.data(), rows);
    std::vector<float> direction(rest_.columns());
    for (int64_t i = 0; i < rows; ++i) {
      AddScaled(rest_.row(i).data(), weights[i], rest_.columns(),
                direction.data());
    }
    return direction;
  }

  // [rows]: of each row with `direction`.
  std::vector<float> ProductsWith(const std::vector<float>& direction) const {
    std::vector<float> products(rest_.rows());
    for (int64_t i = 0; i < rest_.rows(); ++i) {
      products[i] = Dot(rest_.row(i).data(), direction.data(), rest_.columns());
    }
    return products;
  }

  // Takes the product of `taken` and `direction` off. `products` is of before.
  void Subtract(const std::vector<float>& taken,
                const std::vector<float>& direction,
                const std::vector<float>& products, float squares) {
    const int64_t rows = rest_.rows();
    for (int64_t a = 0; a < rows; ++a) {
      AddScaled(direction.data(), -taken[a], rest_.columns(),
                rest_.row(a).data());
      AddScaled(products.data(), -taken[a], rows, products_.row(a).data());
      AddScaled(taken.data(), squares * taken[a] - products[a], rows,
                products_.row(a).data());
    }
  }

 private:
  Matrix rest_;      // [rows x columns]
  Matrix products_;  // [rows x rows]
};

void CompressBlock(MatrixView rows, CompressedFeatures& out) {
  constexpr float kClips[] = {1, 0.9F, 0.8F, 0.7F, 0.6F, 0.5F};
  constexpr float kWhole[] = {1};
  // Of what there was: a row's cosine is then within 0.03 of what it was.
  constexpr double kEnough = 1e-3;
  Residual residual(rows);
  const double enough = kEnough * residual.Energy();
  std::vector<int8_t> rounded(std::max(rows.columns, rows.rows));
  int64_t rank = 0;
  do {
    std::vector<float> direction = residual.Direction();
    RoundBest(direction, CompressedFeatures::kLargestBasis, kClips,
              rounded.data());
    out.basis.insert(out.basis.end(), rounded.begin(),
                     rounded.begin() + rows.columns);
    std::copy_n(rounded.begin(), rows.columns, direction.begin());
    const auto squares = static_cast<float>(Squares(direction));
    const std::vector<float> products = residual.ProductsWith(direction);
    // By least squares: what the rounded direction takes of each row.
    std::vector<float> taken = products;
    if (squares > 0) {
      for (float& value : taken) value /= squares;
    }
    const float scale =
        RoundBest(taken, kLargestCoefficient, kWhole, rounded.data());
    out.coefficients.insert(out.coefficients.end(), rounded.begin(),
                            rounded.begin() + rows.rows);
    out.scales.push_back(scale);
    for (int64_t i = 0; i < rows.rows; ++i) {
      taken[i] = scale * static_cast<float>(rounded[i]);
    }
    residual.Subtract(taken, direction, products, squares);
    ++rank;
  } while (rank < MaxRank(rows.rows) && residual.Energy() > enough);
  out.blocks.push_back({.rows = rows.rows, .rank = rank});
}

// Of two numbers below 8 each: the first half of a row lies in the low bits,
// the second in the high ones, both with 8 added.
constexpr int kNibbleOffset = 8;
constexpr int kNibbleBits = 4;
constexpr uint8_t kLowBits = 0x0f;

int64_t PackedBytes(int64_t columns) { return (columns + 1) / 2; }

void AppendPacked(const int8_t* values, int64_t columns, std::string& bytes) {
  const int64_t half = PackedBytes(columns);
  for (int64_t i = 0; i < half; ++i) {
    const int high = half + i < columns ? values[half + i] : 0;
    bytes.push_back(static_cast<char>((values[i] + kNibbleOffset) |
                                      (high + kNibbleOffset) << kNibbleBits));
  }
}

// Returns whether AppendPacked() can have written it.
bool Unpack(const uint8_t* packed, int64_t columns, int8_t* values) {
  const int64_t half = PackedBytes(columns);
  // Sums of ones, rather than a jump: these loops become vector instructions.
  uint8_t damaged = 0;
  for (int64_t i = 0; i < half; ++i) {
    const uint8_t low = packed[i] & kLowBits;
    damaged |= static_cast<uint8_t>(low == 0);
    values[i] = static_cast<int8_t>(low - kNibbleOffset);
  }
  for (int64_t i = 0; i < columns - half; ++i) {
    const uint8_t high = packed[i] >> kNibbleBits;
    damaged |= static_cast<uint8_t>(high == 0);
    values[half + i] = static_cast<int8_t>(high - kNibbleOffset);
  }
  const bool has_filler = columns % 2 != 0;
  return damaged == 0 &&
         (!has_filler || packed[half - 1] >> kNibbleBits == kNibbleOffset);
}

absl::Status Damaged() {
  return absl::DataLossError("the compressed features are damaged");
}

// Takes one off `bytes`, behind those that `features` has.
absl::Status TakeBlock(absl::string_view& bytes, CompressedFeatures& features) {
  if (bytes.size() < 2) return Damaged();
  const CompressedFeatures::Block block = {.rows = TakeNumber<uint8_t>(bytes),
                                           .rank = TakeNumber<uint8_t>(bytes)};
  if (block.rows < 1 || block.rows > CompressedFeatures::kMaxBlockRows ||
      block.rank < 1 || block.rank > CompressedFeatures::kMaxBlockRank) {
    return Damaged();
  }
  const int64_t packed_bytes = PackedBytes(features.columns);
  const uint64_t rank = block.rank;
  // Below 2^5 times 2^33.
  if (bytes.size() < rank * (sizeof(float) + block.rows + packed_bytes)) {
    return Damaged();
  }
  for (int64_t k = 0; k < block.rank; ++k) {
    const auto scale = TakeNumber<float>(bytes);
    if (!(scale >= 0 && scale <= std::numeric_limits<float>::max())) {
      return Damaged();
    }
    features.scales.push_back(scale);
  }
  const auto* const coefficients =
      reinterpret_cast<const int8_t*>(bytes.data());
  const int64_t count = block.rank * block.rows;
  if (std::find(coefficients, coefficients + count,
                std::numeric_limits<int8_t>::min()) != coefficients + count) {
    return Damaged();
  }
  features.coefficients.insert(features.coefficients.end(), coefficients,
                               coefficients + count);
  bytes.remove_prefix(count);
  const size_t first = features.basis.size();
  features.basis.resize(first + block.rank * features.columns);
  for (int64_t k = 0; k < block.rank; ++k) {
    if (!Unpack(reinterpret_cast<const uint8_t*>(bytes.data()),
                features.columns,
                features.basis.data() + first + k * features.columns)) {
      return Damaged();
    }
    bytes.remove_prefix(packed_bytes);
  }
  features.blocks.push_back(block);
  return absl::OkStatus();
}

}  // namespace

CompressedFeatures CompressUnitRows(MatrixView features) {
  CompressedFeatures compressed{.rows = features.rows,
                                .columns = features.columns};
  const int64_t blocks =
      (features.rows + CompressedFeatures::kMaxBlockRows - 1) /
      CompressedFeatures::kMaxBlockRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * features.rows / blocks;
    const int64_t end = (block + 1) * features.rows / blocks;
    CompressBlock({.data = features.row(first).data(),
                   .rows = end - first,
                   .columns = features.columns},
                  compressed);
  }
  return compressed;
}

Matrix Decompress(const CompressedFeatures& features) {
  Matrix matrix(features.rows, features.columns);
  const int8_t* coefficients = features.coefficients.data();
  const int8_t* basis = features.basis.data();
  const float* scales = features.scales.data();
  std::vector<float> weights;
  int64_t first = 0;
  for (const CompressedFeatures::Block& block : features.blocks) {
    weights.resize(block.rank);
    for (int64_t i = 0; i < block.rows; ++i) {
      for (int64_t k = 0; k < block.rank; ++k) {
        weights[k] =
            scales[k] * static_cast<float>(coefficients[k * block.rows + i]);
      }
      AddWeightedSum(basis, weights, matrix.row(first + i));
    }
    first += block.rows;
    coefficients += block.rows * block.rank;
    basis += block.rank * features.columns;
    scales += block.rank;
  }
  return matrix;
}

std::string EncodeFeatures(const CompressedFeatures& features) {
  std::string bytes;
  bytes.push_back(kVersion);
  AppendNumber(static_cast<uint32_t>(features.rows), bytes);
  AppendNumber(static_cast<uint32_t>(features.columns), bytes);
  const float* scales = features.scales.data();
  const int8_t* coefficients = features.coefficients.data();
  const int8_t* basis = features.basis.data();
  for (const CompressedFeatures::Block& block : features.blocks) {
    AppendNumber(static_cast<uint8_t>(block.rows), bytes);
    AppendNumber(static_cast<uint8_t>(block.rank), bytes);
    bytes.append(reinterpret_cast<const char*>(scales),
                 block.rank * sizeof(float));
    bytes.append(reinterpret_cast<const char*>(coefficients),
                 block.rank * block.rows);
    for (int64_t k = 0; k < block.rank; ++k) {
      AppendPacked(basis + k * features.columns, features.columns, bytes);
    }
    scales += block.rank;
    coefficients += block.rank * block.rows;
    basis += block.rank * features.columns;
  }
  return bytes;
}

bool IsCompressed(absl::string_view bytes) {
  return !bytes.empty() && bytes.front() == kVersion;
}

absl::Status DecodeFeatures(absl::string_view bytes,
                            CompressedFeatures& features) {
  if (bytes.size() < kHeaderBytes || !IsCompressed(bytes)) return Damaged();
  bytes.remove_prefix(1);
  features.rows = TakeNumber<uint32_t>(bytes);
  features.columns = TakeNumber<uint32_t>(bytes);
  features.blocks.clear();
  features.scales.clear();
  features.coefficients.clear();
  features.basis.clear();
  int64_t rows = 0;
  while (rows < features.rows) {
    QUERN_RETURN_IF_ERROR(TakeBlock(bytes, features));
    rows += features.blocks.back().rows;
  }
  if (rows != features.rows || !bytes.empty()) return Damaged();
  return absl::OkStatus();
}

}  // namespace quern
