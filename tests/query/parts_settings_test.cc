#include "engine/query/parts_settings.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/fine/item_parts.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Config = v1::PartsConfig;

v1::Collection With(void (*change)(Config&)) {
  v1::Collection record;
  change(*record.mutable_parts());
  return record;
}

TEST(PartsSettingsTest, NothingIsKeptUnlessItIsAskedFor) {
  EXPECT_FALSE(ValueOrDie(PartsSettingsOf(v1::Collection())).keeps_any());
  const PartsSettings none =
      ValueOrDie(PartsSettingsOf(With([](Config& config) {
        config.set_dense(Config::DENSE_OFF);
        config.set_frames_per_second(0);
      })));
  EXPECT_FALSE(none.keeps_any());
}

TEST(PartsSettingsTest, DefaultsAreThoseOfTheContract) {
  const PartsSettings settings = ValueOrDie(PartsSettingsOf(
      With([](Config& config) { config.set_dense(Config::DENSE_7X7); })));
  EXPECT_EQ(settings.grid, 7);
  EXPECT_DOUBLE_EQ(settings.frames_per_second, 2);
  EXPECT_EQ(settings.max_frames, 256);
}

TEST(PartsSettingsTest, RefusesWhatIsOutOfRangeByName) {
  const auto field_of = [](void (*change)(Config&)) {
    const absl::Status status = PartsSettingsOf(With(change)).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return GetField(status);
  };
  EXPECT_EQ(field_of([](Config& c) { c.set_dense(Config::Dense(9)); }),
            "collection.parts.dense");
  EXPECT_EQ(field_of([](Config& c) { c.set_encoding(Config::Encoding(9)); }),
            "collection.parts.encoding");
  for (const auto change : {+[](Config& c) { c.set_frames_per_second(-1); },
                            +[](Config& c) { c.set_frames_per_second(60.1F); },
                            +[](Config& c) { c.set_frames_per_second(NAN); }}) {
    EXPECT_EQ(field_of(change), "collection.parts.frames_per_second");
  }
  EXPECT_EQ(field_of([](Config& c) { c.set_max_frames(0); }),
            "collection.parts.max_frames");
  EXPECT_EQ(field_of([](Config& c) { c.set_max_frames(4097); }),
            "collection.parts.max_frames");
}

TEST(PartsSettingsTest, SearchableTakesPartsThatAreKept) {
  EXPECT_FALSE(ValueOrDie(PartsSettingsOf(v1::Collection())).is_searchable);
  // Frames are kept by default where anything is said of parts.
  EXPECT_TRUE(ValueOrDie(PartsSettingsOf(With([](Config& c) {
                c.set_searchable(true);
              }))).is_searchable);
  EXPECT_TRUE(ValueOrDie(PartsSettingsOf(With([](Config& c) {
                c.set_dense(Config::DENSE_7X7);
                c.set_frames_per_second(0);
                c.set_searchable(true);
              }))).is_searchable);
  const absl::Status status = PartsSettingsOf(With([](Config& c) {
                                c.set_frames_per_second(0);
                                c.set_searchable(true);
                              })).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr("parts.dense"),
                                     HasSubstr("parts.frames_per_second"))));
  EXPECT_EQ(GetField(status), "collection.parts.searchable");
}

TEST(PartsSettingsTest, MediaIsNoPart) {
  const auto kept = PartsSettingsOf(With([](Config& c) {
    c.set_keep_media(true);
    c.set_frames_per_second(0);
  }));
  ASSERT_THAT(kept, IsOk());
  EXPECT_TRUE(kept->keep_media);
  EXPECT_FALSE(kept->keeps_any());
  EXPECT_THAT(CheckParts(*kept, nullptr), IsOk());
}

TEST(PartsSettingsTest, NamesTheCapabilityThatTheModelLacks) {
  const PartsSettings grids{.grid = 7};
  const PartsSettings frames{.frames_per_second = 1};
  EXPECT_THAT(CheckParts(grids, MakeFakeModel().get()), IsOk());
  EXPECT_THAT(CheckParts(grids, nullptr),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("image.dense")));
  EXPECT_THAT(CheckParts({}, nullptr), IsOk());
  ModelInfo info = MakeFakeModel()->info();
  info.capabilities = {"image.global", "text.global"};
  const Model without(info, MakeFakeModel()->preprocessing(),
                      std::make_unique<FakeTokenizer>(),
                      std::make_unique<FakeEncoder>());
  EXPECT_THAT(CheckParts(grids, &without),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("collection.parts.dense"),
                             HasSubstr("image.dense"))));
  // A frame is kept as its embedding.
  EXPECT_THAT(CheckParts(frames, &without), IsOk());
}

TEST(PartsSettingsTest, AFinerGridIsAveragedCellByCell) {
  // 3 x 2 cells to 2 x 2: the middle row counts on both sides. Lengths do not.
  const DenseMaps maps{.rows = 1,
                       .grid_height = 3,
                       .grid_width = 2,
                       .dimension = 2,
                       .values = {5, 0, 0, 1,  //
                                  1, 0, 0, 2,  //
                                  0, 3, 0, 4}};
  const DenseMaps pooled = PoolGrid(maps, 2);
  EXPECT_EQ(pooled.grid_height, 2);
  EXPECT_EQ(pooled.grid_width, 2);
  EXPECT_THAT(pooled.values, ElementsAre(2, 0, 0, 2, 1, 1, 0, 2));
  EXPECT_EQ(PoolGrid(maps, 3).values, maps.values);
}

TEST(PartsSettingsTest, FeaturesAreKeptInTheFormThatIsAskedFor) {
  Embedded picture;
  picture.width = 640;
  picture.height = 480;
  picture.dense = {.rows = 1,
                   .grid_height = 7,
                   .grid_width = 7,
                   .dimension = 64,
                   .values = std::vector<float>(7 * 7 * 64, 1)};
  Embedded video = picture;
  video.dense = {.rows = 2,
                 .grid_height = 1,
                 .grid_width = 1,
                 .dimension = 2,
                 .values = {1, 0, 0, 2}};
  video.times = {absl::ZeroDuration(), absl::Seconds(1)};
  video.samples = {1, 2};
  video.duration = absl::Seconds(2);
  for (const bool is_compressed : {false, true}) {
    const PartsSettings settings =
        ValueOrDie(PartsSettingsOf(With(is_compressed ? +[](Config& config) {
          config.set_dense(Config::DENSE_7X7);
          config.set_encoding(Config::ENCODING_COMPRESSED);
        } : +[](Config& config) { config.set_dense(Config::DENSE_7X7); })));
    EXPECT_EQ(settings.is_compressed, is_compressed);
    PartsReader reader;
    const std::string of_picture = PartsOf(settings, ImageInput{}, picture);
    const PartsView grid = ValueOrDie(reader.Read(of_picture));
    EXPECT_EQ(grid.compressed != nullptr, is_compressed);
    EXPECT_EQ(grid.shape.grid_width, 7);
    EXPECT_EQ(grid.shape.width, 640);
    EXPECT_EQ(grid.features.rows, 49);
    const std::string of_video = PartsOf(settings, VideoInput{}, video);
    const PartsView frames = ValueOrDie(reader.Read(of_video));
    EXPECT_EQ(frames.compressed != nullptr, is_compressed);
    EXPECT_THAT(frames.samples, ElementsAre(1, 2));
    EXPECT_EQ(frames.shape.duration, absl::Seconds(2));
  }
}

TEST(PartsSettingsTest, ATextKeepsNothing) {
  const PartsSettings settings{.grid = 7, .frames_per_second = 2};
  EXPECT_EQ(PartsOf(settings, TextInput{"a"}, Embedded{}), "");
  EXPECT_FALSE(EmbedOptionsFor(settings, TextInput{"a"}).dense);
}

}  // namespace
}  // namespace quern
