#include "engine/fine/item_parts.h"

#include <algorithm>

#include "engine/base/little_endian.h"

namespace quern {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kHeadBytes =
    sizeof(uint8_t) + 5 * sizeof(uint32_t) + sizeof(int64_t);
constexpr size_t kFrameBytes = sizeof(int64_t) + sizeof(uint32_t);

absl::Status Damaged() {
  return absl::DataLossError("what is kept of the parts is damaged");
}

// Takes the head off `bytes`.
absl::StatusOr<PartsShape> TakeShape(absl::string_view& bytes) {
  if (bytes.size() < kHeadBytes) return Damaged();
  if (TakeNumber<uint8_t>(bytes) != kVersion) return Damaged();
  PartsShape shape;
  shape.width = TakeNumber<uint32_t>(bytes);
  shape.height = TakeNumber<uint32_t>(bytes);
  shape.grid_height = TakeNumber<uint32_t>(bytes);
  shape.grid_width = TakeNumber<uint32_t>(bytes);
  shape.frames = TakeNumber<uint32_t>(bytes);
  const auto nanoseconds = TakeNumber<int64_t>(bytes);
  shape.duration = absl::Nanoseconds(nanoseconds);
  // Below 2^32 x 2^32: a uint64_t has room for the product.
  const bool has_grid = shape.grid_height > 0 && shape.grid_width > 0;
  const bool has_frames = shape.frames > 0;
  if (has_grid == has_frames || nanoseconds < 0 ||
      (has_frames && (shape.grid_height > 0 || shape.grid_width > 0))) {
    return Damaged();
  }
  return shape;
}

absl::Status TakeFrames(absl::string_view& bytes, PartFeatures& parts) {
  const auto frames = static_cast<uint64_t>(parts.shape.frames);
  if (bytes.size() < frames * kFrameBytes) return Damaged();
  parts.times.reserve(frames);
  parts.samples.reserve(frames);
  int64_t last = 0;
  for (uint64_t i = 0; i < frames; ++i) {
    const auto nanoseconds = TakeNumber<int64_t>(bytes);
    const auto samples = TakeNumber<uint32_t>(bytes);
    if (nanoseconds < last || samples == 0) return Damaged();
    last = nanoseconds;
    parts.times.push_back(absl::Nanoseconds(nanoseconds));
    parts.samples.push_back(samples);
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeParts(const PartFeatures& parts) {
  const PartsShape& shape = parts.shape;
  std::string bytes;
  AppendNumber(kVersion, bytes);
  for (const int64_t number : {shape.width, shape.height, shape.grid_height,
                               shape.grid_width, shape.frames}) {
    AppendNumber(static_cast<uint32_t>(number), bytes);
  }
  AppendNumber(absl::ToInt64Nanoseconds(shape.duration), bytes);
  for (size_t i = 0; i < parts.times.size(); ++i) {
    AppendNumber(absl::ToInt64Nanoseconds(parts.times[i]), bytes);
    AppendNumber(static_cast<uint32_t>(parts.samples[i]), bytes);
  }
  bytes.append(EncodeFeatures(parts.features));
  return bytes;
}

absl::StatusOr<PartsShape> DecodePartsShape(absl::string_view bytes) {
  return TakeShape(bytes);
}

absl::StatusOr<PartFeatures> DecodeParts(absl::string_view bytes) {
  absl::StatusOr<PartsShape> shape = TakeShape(bytes);
  if (!shape.ok()) return shape.status();
  PartFeatures parts{.shape = *shape};
  if (absl::Status status = TakeFrames(bytes, parts); !status.ok()) {
    return status;
  }
  absl::StatusOr<QuantizedFeatures> features = DecodeFeatures(bytes);
  if (!features.ok()) return features.status();
  const uint64_t cells = static_cast<uint64_t>(shape->grid_height) *
                         static_cast<uint64_t>(shape->grid_width);
  const uint64_t rows = std::max(cells, static_cast<uint64_t>(shape->frames));
  if (static_cast<uint64_t>(features->rows) != rows || features->columns < 1) {
    return Damaged();
  }
  parts.features = *std::move(features);
  return parts;
}

Evidence EvidenceOf(const PartFeatures& parts, int64_t row) {
  const PartsShape& shape = parts.shape;
  if (shape.frames > 0) {
    const auto i = static_cast<size_t>(row);
    const absl::Duration start = parts.times[i];
    const absl::Duration end =
        i + 1 < parts.times.size() ? parts.times[i + 1] : shape.duration;
    return {.span =
                TimeSpan{.start = absl::ToDoubleSeconds(start),
                         .end = absl::ToDoubleSeconds(std::max(start, end))}};
  }
  const auto share = [](int64_t cell, int64_t cells) {
    return static_cast<float>(cell) / static_cast<float>(cells);
  };
  const int64_t y = row / shape.grid_width;
  const int64_t x = row % shape.grid_width;
  return {.box = Box{.left = share(x, shape.grid_width),
                     .top = share(y, shape.grid_height),
                     .right = share(x + 1, shape.grid_width),
                     .bottom = share(y + 1, shape.grid_height)}};
}

}  // namespace quern
