#include "engine/fine/item_parts.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

Matrix RandomRows(int64_t rows, int64_t columns) {
  std::mt19937 random(7);
  std::normal_distribution<float> value;
  Matrix matrix(rows, columns);
  for (int64_t i = 0; i < rows * columns; ++i) matrix.data()[i] = value(random);
  return matrix;
}

PartFeatures Grid(int64_t height, int64_t width, int64_t dimension) {
  return {.shape = {.grid_height = height,
                    .grid_width = width,
                    .width = 640,
                    .height = 480},
          .features =
              QuantizeUnitRows(RandomRows(height * width, dimension).view())};
}

PartFeatures Video() {
  return {.shape = {.frames = 3,
                    .duration = absl::Seconds(4),
                    .width = 320,
                    .height = 240},
          .times = {absl::ZeroDuration(), absl::Milliseconds(500),
                    absl::Seconds(3)},
          .samples = {1, 5, 2},
          .features = QuantizeUnitRows(RandomRows(3, 8).view())};
}

void ExpectSame(const PartFeatures& actual, const PartFeatures& expected) {
  EXPECT_EQ(actual.shape.grid_height, expected.shape.grid_height);
  EXPECT_EQ(actual.shape.grid_width, expected.shape.grid_width);
  EXPECT_EQ(actual.shape.frames, expected.shape.frames);
  EXPECT_EQ(actual.shape.duration, expected.shape.duration);
  EXPECT_EQ(actual.shape.width, expected.shape.width);
  EXPECT_EQ(actual.shape.height, expected.shape.height);
  EXPECT_EQ(actual.times, expected.times);
  EXPECT_EQ(actual.samples, expected.samples);
  EXPECT_EQ(actual.features.rows, expected.features.rows);
  EXPECT_EQ(actual.features.columns, expected.features.columns);
  EXPECT_EQ(actual.features.values, expected.features.values);
  EXPECT_EQ(actual.features.scales, expected.features.scales);
}

TEST(ItemPartsTest, WhatWasEncodedComesBack) {
  for (const PartFeatures& parts : {Grid(7, 7, 512), Grid(1, 3, 1), Video()}) {
    const std::string bytes = EncodeParts(parts);
    ExpectSame(ValueOrDie(DecodeParts(bytes)), parts);
    const PartsShape shape = ValueOrDie(DecodePartsShape(bytes));
    EXPECT_EQ(shape.frames, parts.shape.frames);
    EXPECT_EQ(shape.grid_width, parts.shape.grid_width);
    EXPECT_EQ(shape.width, parts.shape.width);
  }
}

// What a collection pays for an item, as the README states it.
TEST(ItemPartsTest, AnItemTakesTheBytesThatTheReadmeStates) {
  EXPECT_EQ(EncodeParts(Grid(7, 7, 512)).size(), 25'322u);
  EXPECT_EQ(EncodeParts(Grid(14, 14, 512)).size(), 101'174u);
  const auto compressed = [](int64_t side) {
    const PartFeatures grid = Grid(side, side, 512);
    return EncodeParts(grid,
                       CompressUnitRows(RandomRows(side * side, 512).view()))
        .size();
  };
  // At most: pictures whose cells have more in common take less.
  EXPECT_EQ(compressed(7), 4'057u);
  EXPECT_EQ(compressed(14), 16'114u);
}

TEST(ItemPartsTest, CompressedFeaturesComeBackInBothForms) {
  for (const PartFeatures& parts : {Grid(7, 7, 512), Video()}) {
    const Matrix rows = RandomRows(parts.features.rows, parts.features.columns);
    const CompressedFeatures compressed = CompressUnitRows(rows.view());
    const std::string bytes = EncodeParts(parts, compressed);
    PartsReader reader;
    const PartsView view = ValueOrDie(reader.Read(bytes));
    ASSERT_NE(view.compressed, nullptr);
    EXPECT_EQ(view.compressed->basis, compressed.basis);
    EXPECT_EQ(view.features.rows, parts.features.rows);
    EXPECT_EQ(view.features.columns, parts.features.columns);
    EXPECT_THAT(view.samples, testing::ElementsAreArray(parts.samples));
    EXPECT_THAT(view.times, testing::ElementsAreArray(parts.times));
    EXPECT_EQ(ValueOrDie(DecodePartsShape(bytes)).frames, parts.shape.frames);
    PartFeatures expected = parts;
    expected.features = QuantizeUnitRows(Decompress(compressed).view());
    ExpectSame(ValueOrDie(DecodeParts(bytes)), expected);
  }
}

// One reader for items of both forms, of different sizes.
TEST(ItemPartsTest, AReaderReadsOneItemAfterTheOther) {
  const PartFeatures large = Grid(7, 7, 64);
  const PartFeatures small = Grid(1, 2, 8);
  const std::string compressed =
      EncodeParts(large, CompressUnitRows(RandomRows(49, 64).view()));
  PartsReader reader;
  for (int round = 0; round < 2; ++round) {
    EXPECT_NE(ValueOrDie(reader.Read(compressed)).compressed, nullptr);
    EXPECT_THAT(reader.Read("damaged"), StatusIs(absl::StatusCode::kDataLoss));
    for (const PartFeatures& parts : {large, Video(), small}) {
      const std::string bytes = EncodeParts(parts);
      const PartsView view = ValueOrDie(reader.Read(bytes));
      EXPECT_EQ(view.compressed, nullptr);
      ASSERT_EQ(view.features.rows, parts.features.rows);
      EXPECT_THAT(view.features.row(view.features.rows - 1),
                  testing::ElementsAreArray(
                      parts.features.row(parts.features.rows - 1)));
      EXPECT_THAT(view.features.scales,
                  testing::ElementsAreArray(parts.features.scales));
      EXPECT_EQ(view.samples.size(), parts.samples.size());
    }
  }
}

TEST(ItemPartsTest, EveryCutAndEveryChangedByteIsHandled) {
  std::vector<std::string> goods;
  for (const PartFeatures& parts : {Grid(2, 2, 4), Video()}) {
    goods.push_back(EncodeParts(parts));
    goods.push_back(EncodeParts(
        parts,
        CompressUnitRows(
            RandomRows(parts.features.rows, parts.features.columns).view())));
  }
  for (const std::string& good : goods) {
    const PartFeatures parts = ValueOrDie(DecodeParts(good));
    for (size_t size = 0; size < good.size(); ++size) {
      EXPECT_THAT(DecodeParts(good.substr(0, size)),
                  StatusIs(absl::StatusCode::kDataLoss));
    }
    EXPECT_THAT(DecodeParts(good + "x"), StatusIs(absl::StatusCode::kDataLoss));
    for (size_t i = 0; i < good.size(); ++i) {
      for (const int bit : {0x01, 0x80, 0xff}) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ bit);
        const absl::StatusOr<PartFeatures> decoded = DecodeParts(bad);
        if (!decoded.ok()) continue;
        // A number was changed, not how many there are.
        EXPECT_EQ(decoded->features.values.size(),
                  parts.features.values.size());
        EXPECT_EQ(decoded->times.size(), parts.times.size());
        EXPECT_THAT(decoded->samples, Each(testing::Gt(0)));
      }
    }
  }
}

TEST(ItemPartsTest, RefusesSizesWhoseProductOverflows) {
  std::string bytes = EncodeParts(Grid(1, 1, 1));
  // Both sides of the grid become 2^32 - 1.
  bytes.replace(9, 8, std::string(8, '\xff'));
  EXPECT_THAT(DecodeParts(bytes), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(ItemPartsTest, CellsLieInThePictureAndFramesInTheVideo) {
  const PartFeatures grid = Grid(2, 4, 1);
  const Evidence first = EvidenceOf(grid, 0);
  ASSERT_TRUE(first.box.has_value());
  EXPECT_FALSE(first.span.has_value());
  EXPECT_FLOAT_EQ(first.box->left, 0);
  EXPECT_FLOAT_EQ(first.box->right, 0.25F);
  const Evidence last = EvidenceOf(grid, 7);
  EXPECT_FLOAT_EQ(last.box->left, 0.75F);
  EXPECT_FLOAT_EQ(last.box->top, 0.5F);
  EXPECT_FLOAT_EQ(last.box->right, 1);
  EXPECT_FLOAT_EQ(last.box->bottom, 1);

  const PartFeatures video = Video();
  EXPECT_FALSE(EvidenceOf(video, 0).box.has_value());
  EXPECT_DOUBLE_EQ(EvidenceOf(video, 1).span->start, 0.5);
  EXPECT_DOUBLE_EQ(EvidenceOf(video, 1).span->end, 3);
  EXPECT_DOUBLE_EQ(EvidenceOf(video, 2).span->end, 4);
}

}  // namespace
}  // namespace quern
