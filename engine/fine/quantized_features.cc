#include "engine/fine/quantized_features.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"

#include "engine/base/little_endian.h"

namespace quern {
namespace {

constexpr char kVersion = 1;
constexpr size_t kHeaderBytes = 1 + 2 * sizeof(uint32_t);
constexpr float kLargest = 127;

float Quantize(absl::Span<const float> row, int8_t* values) {
  double squares = 0;
  float largest = 0;
  for (const float value : row) {
    squares += double{value} * value;
    largest = std::max(largest, std::abs(value));
  }
  if (squares == 0) {
    std::fill_n(values, row.size(), int8_t{0});
    return 0;
  }
  for (size_t i = 0; i < row.size(); ++i) {
    // To the nearest: cut off, which unlike std::lround() is an instruction.
    const float scaled = row[i] / largest * kLargest;
    values[i] = static_cast<int8_t>(scaled + (scaled < 0 ? -0.5F : 0.5F));
  }
  return static_cast<float>(largest / kLargest / std::sqrt(squares));
}

}  // namespace

QuantizedFeatures QuantizeUnitRows(MatrixView features) {
  QuantizedFeatures quantized{.rows = features.rows,
                              .columns = features.columns};
  quantized.values.resize(features.rows * features.columns);
  quantized.scales.reserve(features.rows);
  for (int64_t row = 0; row < features.rows; ++row) {
    quantized.scales.push_back(Quantize(
        features.row(row), quantized.values.data() + row * features.columns));
  }
  return quantized;
}

Matrix Dequantize(const QuantizedFeatures& features) {
  Matrix matrix(features.rows, features.columns);
  for (int64_t row = 0; row < features.rows; ++row) {
    const float scale = features.scales[row];
    std::transform(features.row(row).begin(), features.row(row).end(),
                   matrix.row(row).begin(), [scale](int8_t value) {
                     return scale * static_cast<float>(value);
                   });
  }
  return matrix;
}

std::string EncodeFeatures(const QuantizedFeatures& features) {
  std::string bytes;
  bytes.reserve(kHeaderBytes + features.scales.size() * sizeof(float) +
                features.values.size());
  bytes.push_back(kVersion);
  AppendNumber(static_cast<uint32_t>(features.rows), bytes);
  AppendNumber(static_cast<uint32_t>(features.columns), bytes);
  bytes.append(reinterpret_cast<const char*>(features.scales.data()),
               features.scales.size() * sizeof(float));
  bytes.append(reinterpret_cast<const char*>(features.values.data()),
               features.values.size());
  return bytes;
}

absl::StatusOr<QuantizedFeatures> DecodeFeatures(absl::string_view bytes) {
  QuantizedFeatures features;
  const absl::StatusOr<QuantizedView> view =
      ReadFeatures(bytes, features.scales);
  if (!view.ok()) return view.status();
  features.rows = view->rows;
  features.columns = view->columns;
  features.values.assign(view->values,
                         view->values + view->rows * view->columns);
  return features;
}

absl::StatusOr<QuantizedView> ReadFeatures(absl::string_view bytes,
                                           std::vector<float>& scales) {
  const absl::Status damaged = absl::DataLossError("the features are damaged");
  if (bytes.size() < kHeaderBytes || bytes[0] != kVersion) return damaged;
  bytes.remove_prefix(1);
  QuantizedView view;
  view.rows = TakeNumber<uint32_t>(bytes);
  view.columns = TakeNumber<uint32_t>(bytes);
  // Neither product can overflow: both factors are below 2^32 + 4.
  const uint64_t needed = static_cast<uint64_t>(view.rows) *
                          (static_cast<uint64_t>(view.columns) + sizeof(float));
  if (bytes.size() != needed) return damaged;
  scales.resize(view.rows);
  std::copy_n(bytes.data(), view.rows * sizeof(float),
              reinterpret_cast<char*>(scales.data()));
  if (!std::all_of(scales.begin(), scales.end(), [](float scale) {
        return scale >= 0 && scale <= std::numeric_limits<float>::max();
      })) {
    return damaged;
  }
  view.scales = scales;
  bytes.remove_prefix(view.rows * sizeof(float));
  // By far quicker than std::find(): this is all that is done per byte here.
  constexpr auto kNotWritten =
      static_cast<uint8_t>(std::numeric_limits<int8_t>::min());
  if (std::memchr(bytes.data(), kNotWritten, bytes.size()) != nullptr) {
    return damaged;
  }
  view.values = reinterpret_cast<const int8_t*>(bytes.data());
  return view;
}

}  // namespace quern
