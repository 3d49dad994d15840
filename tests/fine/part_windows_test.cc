#include "engine/fine/part_windows.h"

#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/fine/item_parts.h"
#include "tests/support/random_rows.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 24;

PartFeatures Picture(int64_t height, int64_t width, MatrixView cells) {
  PartFeatures parts;
  parts.shape.grid_height = height;
  parts.shape.grid_width = width;
  parts.features = QuantizeUnitRows(cells);
  return parts;
}

PartFeatures Video(MatrixView frames) {
  PartFeatures parts;
  parts.shape.frames = frames.rows;
  parts.shape.duration = absl::Seconds(frames.rows);
  for (int64_t i = 0; i < frames.rows; ++i) {
    parts.times.push_back(absl::Seconds(i));
    parts.samples.push_back(1);
  }
  parts.features = QuantizeUnitRows(frames);
  return parts;
}

TEST(PartWindowsTest, TheWholeComesFirstAndWindowsAreInsideAndDistinct) {
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{
           {7, 7}, {14, 14}, {1, 1}, {2, 5}, {1, 9}, {3, 2}}) {
    const std::vector<GridWindow> windows = WindowsOf(height, width);
    ASSERT_FALSE(windows.empty());
    EXPECT_EQ(windows[0], (GridWindow{0, 0, height, width}));
    std::vector<int> covered(height * width);
    for (size_t i = 0; i < windows.size(); ++i) {
      const GridWindow& window = windows[i];
      EXPECT_LT(window.top, window.bottom);
      EXPECT_LT(window.left, window.right);
      EXPECT_GE(window.top, 0);
      EXPECT_GE(window.left, 0);
      EXPECT_LE(window.bottom, height);
      EXPECT_LE(window.right, width);
      for (size_t j = 0; j < i; ++j) EXPECT_FALSE(windows[j] == window);
      if (i == 0) continue;
      for (int64_t y = window.top; y < window.bottom; ++y) {
        for (int64_t x = window.left; x < window.right; ++x) {
          ++covered[y * width + x];
        }
      }
    }
    // Nothing is seen as a part of the whole alone.
    if (windows.size() > 1) {
      EXPECT_THAT(covered, testing::Each(testing::Gt(0)));
    }
  }
  EXPECT_EQ(WindowsOf(7, 7).size(), 21u);
  EXPECT_EQ(WindowsOf(14, 14).size(), 21u);
  EXPECT_EQ(WindowsOf(1, 1).size(), 1u);
}

TEST(PartWindowsTest, ARowIsTheMeanOfUnitCellsInItsWindow) {
  Matrix cells = RandomRows(7 * 7, kDimension, 1);
  // A cell's length does not count.
  for (float& value : cells.row(10)) value *= 100;
  const Matrix rows =
      ValueOrDie(SearchRows(EncodeParts(Picture(7, 7, cells.view()))));
  const std::vector<GridWindow> windows = WindowsOf(7, 7);
  ASSERT_EQ(rows.rows(), static_cast<int64_t>(windows.size()));
  for (size_t i = 0; i < windows.size(); ++i) {
    std::vector<float> sum(kDimension);
    for (int64_t y = windows[i].top; y < windows[i].bottom; ++y) {
      for (int64_t x = windows[i].left; x < windows[i].right; ++x) {
        const auto cell = cells.row(y * 7 + x);
        double squares = 0;
        for (const float value : cell) squares += double{value} * value;
        for (int64_t d = 0; d < kDimension; ++d) {
          sum[d] += static_cast<float>(cell[d] / std::sqrt(squares));
        }
      }
    }
    const auto row = rows.row(static_cast<int64_t>(i));
    EXPECT_GT(Cosine(row, sum), 0.999) << i;
    EXPECT_NEAR(
        Cosine(row, row) * std::sqrt(std::inner_product(row.begin(), row.end(),
                                                        row.begin(), 0.0)),
        1, 1e-5);
  }
}

TEST(PartWindowsTest, AVideosRowsAreItsFramesInEitherForm) {
  const Matrix frames = RandomRows(9, kDimension, 2);
  const PartFeatures parts = Video(frames.view());
  const CompressedFeatures compressed = CompressUnitRows(frames.view());
  const std::vector<std::pair<std::string, Matrix>> forms = {
      {EncodeParts(parts), frames},
      {EncodeParts(parts, compressed), Decompress(compressed)}};
  for (const auto& [bytes, kept] : forms) {
    const Matrix rows = ValueOrDie(SearchRows(bytes));
    ASSERT_EQ(rows.rows(), 9);
    for (int64_t i = 0; i < 9; ++i) {
      EXPECT_GT(Cosine(rows.row(i), kept.row(i)), 0.999) << i;
    }
  }
}

TEST(PartWindowsTest, ABlankCellAddsNothingAndDamageIsSaid) {
  Matrix cells(4, kDimension);
  cells.row(3)[5] = 2;
  const Matrix rows =
      ValueOrDie(SearchRows(EncodeParts(Picture(2, 2, cells.view()))));
  EXPECT_FLOAT_EQ(rows.row(0)[5], 1);
  for (int64_t i = 0; i < rows.rows(); ++i) {
    for (const float value : rows.row(i)) EXPECT_TRUE(std::isfinite(value));
  }
  EXPECT_THAT(SearchRows(""), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(SearchRows("damaged"), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace quern
