#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"

namespace quern {

// Feature vectors of an item's parts, the cells of a grid or the frames of a
// video, in one byte a number: row r is scales[r] * values[r]. A row of length
// one keeps its cosines to about 0.002 at 512 dimensions.
struct QuantizedFeatures {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<int8_t> values;  // rows x columns, each in -127..127.
  std::vector<float> scales;   // [rows], finite and not negative.

  absl::Span<const int8_t> row(int64_t i) const {
    return {values.data() + i * columns, static_cast<size_t>(columns)};
  }
};

// Every row scaled to the length one, then its largest number to 127; a row of
// zeros stays one, with the scale 0. `features` is finite.
QuantizedFeatures QuantizeUnitRows(MatrixView features);

// The rows as floats: [rows x columns].
Matrix Dequantize(const QuantizedFeatures& features);

// As bytes, little-endian: uint8 version 1, uint32 rows, uint32 columns, the
// scales as float32, the values.
std::string EncodeFeatures(const QuantizedFeatures& features);

// The inverse. Errors: kDataLoss for bytes that EncodeFeatures() cannot have
// written.
absl::StatusOr<QuantizedFeatures> DecodeFeatures(absl::string_view bytes);

}  // namespace quern
