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

// The same, borrowed: of QuantizedFeatures or of their bytes.
struct QuantizedView {
  int64_t rows = 0;
  int64_t columns = 0;
  const int8_t* values = nullptr;  // rows x columns
  absl::Span<const float> scales;  // [rows]

  QuantizedView() = default;
  QuantizedView(const QuantizedFeatures& features)  // NOLINT: as string_view.
      : rows(features.rows),
        columns(features.columns),
        values(features.values.data()),
        scales(features.scales) {}

  absl::Span<const int8_t> row(int64_t i) const {
    return {values + i * columns, static_cast<size_t>(columns)};
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

// The same without a copy of the values: they are read where they lie, and the
// scales, which may lie unaligned, are copied to `scales`.
absl::StatusOr<QuantizedView> ReadFeatures(absl::string_view bytes,
                                           std::vector<float>& scales);

}  // namespace quern
