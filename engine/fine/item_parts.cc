#include "engine/fine/item_parts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "engine/base/little_endian.h"
#include "engine/base/status_macros.h"

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

absl::Status TakeFrames(int64_t count, absl::string_view& bytes,
                        std::vector<absl::Duration>& times,
                        std::vector<int64_t>& samples) {
  const auto frames = static_cast<uint64_t>(count);
  if (bytes.size() < frames * kFrameBytes) return Damaged();
  times.clear();
  samples.clear();
  times.reserve(frames);
  samples.reserve(frames);
  int64_t last = 0;
  for (uint64_t i = 0; i < frames; ++i) {
    const auto nanoseconds = TakeNumber<int64_t>(bytes);
    const auto shown = TakeNumber<uint32_t>(bytes);
    if (nanoseconds < last || shown == 0) return Damaged();
    last = nanoseconds;
    times.push_back(absl::Nanoseconds(nanoseconds));
    samples.push_back(shown);
  }
  return absl::OkStatus();
}

std::string EncodeHead(const PartFeatures& parts) {
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
  return bytes;
}

}  // namespace

std::string EncodeParts(const PartFeatures& parts) {
  return absl::StrCat(EncodeHead(parts), EncodeFeatures(parts.features));
}

std::string EncodeParts(const PartFeatures& parts,
                        const CompressedFeatures& features) {
  return absl::StrCat(EncodeHead(parts), EncodeFeatures(features));
}

absl::StatusOr<PartsShape> DecodePartsShape(absl::string_view bytes) {
  return TakeShape(bytes);
}

absl::StatusOr<PartsView> PartsReader::Read(absl::string_view bytes) {
  PartsView view;
  QUERN_ASSIGN_OR_RETURN(view.shape, TakeShape(bytes));
  QUERN_RETURN_IF_ERROR(TakeFrames(view.shape.frames, bytes, times_, samples_));
  view.times = times_;
  view.samples = samples_;
  if (IsCompressed(bytes)) {
    QUERN_RETURN_IF_ERROR(DecodeFeatures(bytes, compressed_));
    view.features.rows = compressed_.rows;
    view.features.columns = compressed_.columns;
    view.compressed = &compressed_;
  } else {
    QUERN_ASSIGN_OR_RETURN(view.features, ReadFeatures(bytes, scales_));
  }
  const uint64_t cells = static_cast<uint64_t>(view.shape.grid_height) *
                         static_cast<uint64_t>(view.shape.grid_width);
  const uint64_t rows =
      std::max(cells, static_cast<uint64_t>(view.shape.frames));
  if (static_cast<uint64_t>(view.features.rows) != rows ||
      view.features.columns < 1) {
    return Damaged();
  }
  return view;
}

absl::StatusOr<PartFeatures> DecodeParts(absl::string_view bytes) {
  PartsReader reader;
  QUERN_ASSIGN_OR_RETURN(const PartsView view, reader.Read(bytes));
  PartFeatures parts{.shape = view.shape,
                     .times = {view.times.begin(), view.times.end()},
                     .samples = {view.samples.begin(), view.samples.end()}};
  if (view.compressed != nullptr) {
    parts.features = QuantizeUnitRows(Decompress(*view.compressed).view());
    return parts;
  }
  const QuantizedView& features = view.features;
  parts.features = {
      .rows = features.rows,
      .columns = features.columns,
      .values = {features.values,
                 features.values + features.rows * features.columns},
      .scales = {features.scales.begin(), features.scales.end()}};
  return parts;
}

Evidence EvidenceOf(const PartsView& parts, int64_t row) {
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
