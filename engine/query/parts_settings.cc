#include "engine/query/parts_settings.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/item_parts.h"

namespace quern {
namespace {

constexpr int64_t kSmallGrid = 7;
constexpr int64_t kLargeGrid = 14;
constexpr float kDefaultFramesPerSecond = 2;
constexpr float kMaxFramesPerSecond = 60;
constexpr int32_t kDefaultMaxFrames = 256;
constexpr int32_t kMaxMaxFrames = 4096;

absl::StatusOr<int64_t> DecodeGrid(v1::PartsConfig::Dense dense) {
  switch (dense) {
    case v1::PartsConfig::DENSE_UNSPECIFIED:
    case v1::PartsConfig::DENSE_OFF:
      return 0;
    case v1::PartsConfig::DENSE_7X7:
      return kSmallGrid;
    case v1::PartsConfig::DENSE_14X14:
      return kLargeGrid;
    default:
      return InvalidField("collection.parts.dense",
                          absl::StrCat("is ", static_cast<int>(dense),
                                       "; it must be OFF, 7X7 or 14X14"));
  }
}

absl::StatusOr<bool> DecodeIsCompressed(v1::PartsConfig::Encoding encoding) {
  switch (encoding) {
    case v1::PartsConfig::ENCODING_UNSPECIFIED:
    case v1::PartsConfig::ENCODING_INT8:
      return false;
    case v1::PartsConfig::ENCODING_COMPRESSED:
      return true;
    default:
      return InvalidField("collection.parts.encoding",
                          absl::StrCat("is ", static_cast<int>(encoding),
                                       "; it must be INT8 or COMPRESSED"));
  }
}

// The frames' vectors, or the cells of a picture's map, as rows.
MatrixView Rows(const DenseMaps& maps) {
  return {.data = maps.values.data(),
          .rows = maps.rows * maps.grid_height * maps.grid_width,
          .columns = maps.dimension};
}

// Adds a cell at length one, so that all count the same in a mean.
void AddUnit(absl::Span<const float> cell, absl::Span<float> sum) {
  double squares = 0;
  for (const float value : cell) squares += double{value} * value;
  if (squares == 0) return;
  const auto scale = static_cast<float>(1 / std::sqrt(squares));
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += scale * cell[i];
}

}  // namespace

absl::StatusOr<PartsSettings> PartsSettingsOf(const v1::Collection& record) {
  PartsSettings settings;
  if (!record.has_parts()) return settings;
  const v1::PartsConfig& config = record.parts();
  QUERN_ASSIGN_OR_RETURN(settings.grid, DecodeGrid(config.dense()));
  const float rate = config.has_frames_per_second() ? config.frames_per_second()
                                                    : kDefaultFramesPerSecond;
  if (!(rate >= 0 && rate <= kMaxFramesPerSecond)) {
    return InvalidField(
        "collection.parts.frames_per_second",
        absl::StrCat("is ", rate, "; it must be 0 to ", kMaxFramesPerSecond));
  }
  settings.frames_per_second = rate;
  const int32_t frames =
      config.has_max_frames() ? config.max_frames() : kDefaultMaxFrames;
  if (frames < 1 || frames > kMaxMaxFrames) {
    return InvalidField(
        "collection.parts.max_frames",
        absl::StrCat("is ", frames, "; it must be 1 to ", kMaxMaxFrames));
  }
  settings.max_frames = frames;
  QUERN_ASSIGN_OR_RETURN(settings.is_compressed,
                         DecodeIsCompressed(config.encoding()));
  settings.is_searchable = config.searchable();
  if (settings.is_searchable && !settings.keeps_any()) {
    return InvalidField(
        "collection.parts.searchable",
        "is set, but nothing is kept of the items' parts: set parts.dense, or "
        "parts.frames_per_second above 0");
  }
  settings.keep_media = config.keep_media();
  return settings;
}

absl::Status CheckParts(const PartsSettings& settings, const Model* model) {
  if (!settings.keeps_any()) return absl::OkStatus();
  if (model == nullptr) {
    return absl::FailedPreconditionError(
        "collection.parts: a collection without a model has no features to "
        "keep: name a "
        "model that has image.dense, or leave parts out");
  }
  QUERN_RETURN_IF_ERROR(
      Annotate(model->Require("image.global"), "collection.parts"));
  if (!settings.keeps_grids()) return absl::OkStatus();
  return Annotate(model->Require("image.dense"), "collection.parts.dense");
}

EmbedOptions EmbedOptionsFor(const PartsSettings& settings,
                             const EmbedInput& input) {
  EmbedOptions options;
  if (std::holds_alternative<ImageInput>(input) && settings.keeps_grids()) {
    options.dense = true;
    options.grid_scale = settings.grid / kSmallGrid;
  }
  if (std::holds_alternative<VideoInput>(input) && settings.keeps_frames()) {
    options.video = {.frames_per_second = settings.frames_per_second,
                     .max_frames = settings.max_frames};
  }
  return options;
}

DenseMaps PoolGrid(const DenseMaps& maps, int64_t grid) {
  if (maps.grid_height <= grid && maps.grid_width <= grid) return maps;
  DenseMaps pooled{.rows = 1,
                   .grid_height = std::min(grid, maps.grid_height),
                   .grid_width = std::min(grid, maps.grid_width),
                   .dimension = maps.dimension};
  pooled.values.resize(pooled.grid_height * pooled.grid_width *
                       pooled.dimension);
  const MatrixView cells = Rows(maps);
  const auto first = [](int64_t i, int64_t from, int64_t to) {
    return i * from / to;
  };
  const auto last = [](int64_t i, int64_t from, int64_t to) {
    return ((i + 1) * from + to - 1) / to;
  };
  auto sum = absl::MakeSpan(pooled.values);
  for (int64_t row = 0; row < pooled.grid_height; ++row) {
    for (int64_t column = 0; column < pooled.grid_width; ++column) {
      for (int64_t y = first(row, maps.grid_height, pooled.grid_height);
           y < last(row, maps.grid_height, pooled.grid_height); ++y) {
        for (int64_t x = first(column, maps.grid_width, pooled.grid_width);
             x < last(column, maps.grid_width, pooled.grid_width); ++x) {
          AddUnit(cells.row(y * maps.grid_width + x),
                  sum.first(pooled.dimension));
        }
      }
      sum.remove_prefix(pooled.dimension);
    }
  }
  return pooled;
}

std::string PartsOf(const PartsSettings& settings, const EmbedInput& input,
                    const Embedded& embedded) {
  PartFeatures parts{
      .shape = {.width = embedded.width, .height = embedded.height}};
  const auto encode = [&](MatrixView features) {
    if (settings.is_compressed) {
      return EncodeParts(parts, CompressUnitRows(features));
    }
    parts.features = QuantizeUnitRows(features);
    return EncodeParts(parts);
  };
  if (std::holds_alternative<ImageInput>(input) && settings.keeps_grids()) {
    const DenseMaps grid = PoolGrid(embedded.dense, settings.grid);
    parts.shape.grid_height = grid.grid_height;
    parts.shape.grid_width = grid.grid_width;
    return encode(Rows(grid));
  }
  if (std::holds_alternative<VideoInput>(input) && settings.keeps_frames()) {
    parts.shape.frames = static_cast<int64_t>(embedded.times.size());
    parts.shape.duration = embedded.duration;
    parts.times = embedded.times;
    parts.samples = embedded.samples;
    return encode(embedded.frames());
  }
  return "";
}

}  // namespace quern
