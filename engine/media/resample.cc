#include "engine/media/resample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

// The resampling of Pillow before version 13 (which picks the order of the
// passes by their cost). Each output value is a sum over `support * scale`
// input values to either side, with weights rounded to 22 bits after the point;
// the result of the first pass is rounded to 8 bits before the second one reads
// it. Equality bit for bit depends on the order of the floating-point
// operations in MakeTaps().

namespace quern {
namespace {

constexpr int64_t kChannels = 3;

// 32 bits less 8 for the pixel and 2 for the overshoot of bicubic weights.
constexpr int kWeightBits = 22;
constexpr int32_t kHalf = 1 << (kWeightBits - 1);

// Values summed side by side, in registers: three channels of sixteen rows.
constexpr int64_t kLaneRows = 16;
constexpr int64_t kLanes = kLaneRows * kChannels;

double Triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

// Keys' cubic convolution; its parameter a.
constexpr double kCubicA = -0.5;

double Cubic(double x) {
  x = std::abs(x);
  if (x < 1.0) return ((kCubicA + 2.0) * x - (kCubicA + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * kCubicA;
  return 0.0;
}

struct FilterShape {
  double (*weight)(double);
  double support;  // Zero beyond this distance.
};

FilterShape ShapeOf(ResizeFilter filter) {
  switch (filter) {
    case ResizeFilter::kBilinear:
      return {Triangle, 1.0};
    case ResizeFilter::kBicubic:
      break;
  }
  return {Cubic, 2.0};
}

// The weighted sum that makes one output position along an axis.
struct Taps {
  int64_t first = 0;  // Input position of the first weight.
  int64_t count = 0;
  int64_t weights_begin = 0;  // In AxisTaps::weights.
};

struct AxisTaps {
  std::vector<Taps> taps;  // One per output position of the window.
  std::vector<int32_t> weights;

  int64_t first_input() const { return taps.front().first; }
  int64_t end_input() const { return taps.back().first + taps.back().count; }
};

int32_t FixedPoint(double weight) {
  const double scaled = weight * (1 << kWeightBits);
  return static_cast<int32_t>(std::trunc(scaled + std::copysign(0.5, scaled)));
}

int64_t ToNearest(double value) {
  return static_cast<int64_t>(std::floor(value + 0.5));
}

// Taps for the output positions [begin, begin + count) of an axis resized from
// `in_size` to `out_size`.
AxisTaps MakeTaps(int64_t in_size, int64_t out_size, int64_t begin,
                  int64_t count, ResizeFilter filter) {
  const FilterShape shape = ShapeOf(filter);
  const double scale =
      static_cast<double>(in_size) / static_cast<double>(out_size);
  const double filter_scale = std::max(scale, 1.0);
  const double support = shape.support * filter_scale;
  const double inverse_scale = 1.0 / filter_scale;
  AxisTaps axis;
  axis.taps.reserve(count);
  std::vector<double> weights;
  for (int64_t out = begin; out < begin + count; ++out) {
    const double center = (static_cast<double>(out) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, ToNearest(center - support));
    const int64_t end = std::min(in_size, ToNearest(center + support));
    weights.clear();
    double sum = 0;
    for (int64_t i = 0; i < end - first; ++i) {
      weights.push_back(shape.weight(
          (static_cast<double>(i + first) - center + 0.5) * inverse_scale));
      sum += weights.back();
    }
    axis.taps.push_back(
        {.first = first,
         .count = end - first,
         .weights_begin = static_cast<int64_t>(axis.weights.size())});
    for (double weight : weights) {
      axis.weights.push_back(FixedPoint(sum != 0 ? weight / sum : weight));
    }
  }
  return axis;
}

uint8_t Round8(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

// Sums `count` rows of kLanes values, `stride` bytes apart, each times its
// weight.
void SumLanes(const uint8_t* rows, int64_t stride, const int32_t* weights,
              int64_t count, uint8_t* out) {
  std::array<int32_t, kLanes> sums;
  sums.fill(kHalf);
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* row = rows + i * stride;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += weights[i] * row[lane];
    }
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) out[lane] = Round8(sums[lane]);
}

// As SumLanes() for fewer than kLanes values.
void SumTail(const uint8_t* rows, int64_t stride, const int32_t* weights,
             int64_t count, int64_t lanes, uint8_t* out) {
  for (int64_t lane = 0; lane < lanes; ++lane) {
    int32_t sum = kHalf;
    for (int64_t i = 0; i < count; ++i) {
      sum += weights[i] * rows[i * stride + lane];
    }
    out[lane] = Round8(sum);
  }
}

// Lays the columns of up to kLaneRows rows out one after the other, kLanes
// values each, so that a sum along a row becomes a sum of lanes.
void ColumnsOf(const uint8_t* rows, int64_t row_bytes, int64_t row_count,
               int64_t columns, uint8_t* out) {
  for (int64_t y = 0; y < row_count; ++y) {
    const uint8_t* row = rows + y * row_bytes;
    uint8_t* lanes = out + y * kChannels;
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t channel = 0; channel < kChannels; ++channel) {
        lanes[x * kLanes + channel] = row[x * kChannels + channel];
      }
    }
  }
}

// Resizes the rows [top, top + height) of `image` along x.
Image ResizeAlongX(const Image& image, const AxisTaps& axis, int64_t top,
                   int64_t height) {
  const int64_t width = static_cast<int64_t>(axis.taps.size());
  const int64_t first = axis.first_input();
  const int64_t columns = axis.end_input() - first;
  Image out{.width = width, .height = height, .rgb = {}};
  out.rgb.resize(width * height * kChannels);
  std::vector<uint8_t> in_columns(columns * kLanes);
  std::array<uint8_t, kLanes> out_column;
  for (int64_t y = 0; y < height; y += kLaneRows) {
    const int64_t row_count = std::min(kLaneRows, height - y);
    ColumnsOf(image.rgb.data() + ((top + y) * image.width + first) * kChannels,
              image.width * kChannels, row_count, columns, in_columns.data());
    for (int64_t x = 0; x < width; ++x) {
      const Taps& taps = axis.taps[x];
      SumLanes(in_columns.data() + (taps.first - first) * kLanes, kLanes,
               axis.weights.data() + taps.weights_begin, taps.count,
               out_column.data());
      for (int64_t row = 0; row < row_count; ++row) {
        std::memcpy(out.rgb.data() + ((y + row) * width + x) * kChannels,
                    out_column.data() + row * kChannels, kChannels);
      }
    }
  }
  return out;
}

// Resizes along y; the rows of `image` start at the input position `top`.
Image ResizeAlongY(const Image& image, const AxisTaps& axis, int64_t top) {
  const int64_t row_bytes = image.width * kChannels;
  const int64_t height = static_cast<int64_t>(axis.taps.size());
  Image out{.width = image.width, .height = height, .rgb = {}};
  out.rgb.resize(row_bytes * height);
  for (int64_t y = 0; y < height; ++y) {
    const Taps& taps = axis.taps[y];
    const uint8_t* rows = image.rgb.data() + (taps.first - top) * row_bytes;
    const int32_t* weights = axis.weights.data() + taps.weights_begin;
    uint8_t* out_row = out.rgb.data() + y * row_bytes;
    int64_t x = 0;
    for (; x + kLanes <= row_bytes; x += kLanes) {
      SumLanes(rows + x, row_bytes, weights, taps.count, out_row + x);
    }
    SumTail(rows + x, row_bytes, weights, taps.count, row_bytes - x,
            out_row + x);
  }
  return out;
}

Image Crop(const Image& image, const Window& window) {
  const int64_t row_bytes = window.width * kChannels;
  Image out{.width = window.width, .height = window.height, .rgb = {}};
  out.rgb.resize(row_bytes * window.height);
  for (int64_t y = 0; y < window.height; ++y) {
    const int64_t source =
        ((window.top + y) * image.width + window.left) * kChannels;
    std::memcpy(out.rgb.data() + y * row_bytes, image.rgb.data() + source,
                row_bytes);
  }
  return out;
}

// The pass along x goes first, but for pictures so slender that this would cost
// far more than the other order.
bool ResizesAlongYFirst(const Image& image, int64_t height) {
  return image.height > 100 * image.width && height < image.height;
}

}  // namespace

Image ResizeWindow(const Image& image, int64_t width, int64_t height,
                   const Window& window, ResizeFilter filter) {
  const bool along_x = width != image.width;
  const bool along_y = height != image.height;
  if (!along_x && !along_y) return Crop(image, window);
  if (!along_y) {
    return ResizeAlongX(
        image, MakeTaps(image.width, width, window.left, window.width, filter),
        window.top, window.height);
  }
  const AxisTaps y_axis =
      MakeTaps(image.height, height, window.top, window.height, filter);
  const int64_t top = y_axis.first_input();
  const int64_t rows = y_axis.end_input() - top;
  if (!along_x) {
    return ResizeAlongY(Crop(image, {.left = window.left,
                                     .top = top,
                                     .width = window.width,
                                     .height = rows}),
                        y_axis, top);
  }
  const AxisTaps x_axis =
      MakeTaps(image.width, width, window.left, window.width, filter);
  if (ResizesAlongYFirst(image, height)) {
    return ResizeAlongX(ResizeAlongY(image, y_axis, 0), x_axis, 0,
                        window.height);
  }
  return ResizeAlongY(ResizeAlongX(image, x_axis, top, rows), y_axis, top);
}

}  // namespace quern
