#include "engine/query/engine.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "tests/query/fake_collection.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::Optional;

// Reads "red" as a red picture, and so on; everything else is damaged.
class FakeDecoder final : public ImageDecoder {
 public:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t,
                                 int64_t) const override {
    std::vector<uint8_t> color;
    if (encoded == "red") color = {255, 0, 0};
    if (encoded == "blue") color = {0, 0, 255};
    if (color.empty()) return absl::InvalidArgumentError("is not a picture");
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      image.rgb.insert(image.rgb.end(), color.begin(), color.end());
    }
    return image;
  }
};

class EngineTest : public ::testing::Test {
 protected:
  EngineTest()
      : catalog_(ValueOrDie(Catalog::Open({.path = directory_.path() + "/data",
                                           .factories = disk_.Factories(),
                                           .clock = &clock_}))),
        embedder_({.max_text_bytes = 100}, &decoder_, &videos_, &calls_),
        engine_({.max_page_size = 50, .max_payload_bytes = 20}, &embedder_,
                &models_, catalog_.get()) {
    models_.Put(MakeFakeModel("fake", 32));
  }

  std::shared_ptr<Collection> CreatePhotos() {
    v1::Collection wanted;
    wanted.set_name("photos");
    ValueOrDie(engine_.CreateCollection(wanted));
    return ValueOrDie(catalog_->Get("photos"));
  }

  // Collection "points": two dimensions, no model; a and b on the axes.
  void CreatePoints() {
    ValueOrDie(engine_.CreateCollection(Record("points", 2)));
    ASSERT_THAT(ValueOrDie(catalog_->Get("points"))
                    ->Upsert({MakeItem("a", {1, 0}), MakeItem("b", {0, 1}),
                              MakeItem("c", {1, 1})}),
                IsOk());
  }

  absl::Status Put(Collection& collection, const UpsertInput& input) {
    RequestContext context(&clock_, "test");
    const auto item =
        Await<absl::StatusOr<PreparedItem>>([&](const auto& done) {
          engine_.PrepareItem(context, collection, input, done);
        });
    if (!item.ok()) return item.status();
    return collection.Upsert({item->item}).status();
  }

  absl::StatusOr<SearchResult> Search(const SearchQuery& query) {
    RequestContext context(&clock_, "test");
    return Search(context, query);
  }

  absl::StatusOr<SearchResult> Search(RequestContext& context,
                                      const SearchQuery& query) {
    return Await<absl::StatusOr<SearchResult>>(
        [&](const auto& done) { engine_.Search(context, query, done); });
  }

  std::vector<std::string> Ids(const SearchQuery& query) {
    std::vector<std::string> ids;
    for (const SearchHit& hit : ValueOrDie(Search(query)).hits) {
      ids.push_back(hit.item.id);
    }
    return ids;
  }

  static SearchQuery Points(std::vector<QueryPart> parts) {
    return {.collection = "points", .parts = std::move(parts)};
  }

  RealClock clock_;
  FakeDecoder decoder_;
  FakeVideoDecoder videos_;
  ModelRegistry models_;
  TemporaryDirectory directory_;
  FakeDisk disk_;
  std::unique_ptr<Catalog> catalog_;
  ThreadPool calls_{{.name = "calls"}};
  Embedder embedder_;
  Engine engine_;
};

TEST_F(EngineTest, FindsPicturesByTextAndByPicture) {
  auto photos = CreatePhotos();
  ASSERT_THAT(Put(*photos, {.id = "r", .content = ImageInput{"red"}}), IsOk());
  ASSERT_THAT(Put(*photos, {.id = "b", .content = ImageInput{"blue"}}), IsOk());
  EXPECT_THAT(Ids({.collection = "photos", .parts = {{TextInput{"blue"}}}}),
              ElementsAre("b", "r"));
  EXPECT_THAT(Ids({.collection = "photos", .parts = {{ImageInput{"red"}}}}),
              ElementsAre("r", "b"));
}

TEST_F(EngineTest, ATextChoosesAmongTheFramesOfAVideoBesideIt) {
  auto photos = CreatePhotos();
  ASSERT_THAT(Put(*photos, {.id = "r", .content = ImageInput{"red"}}), IsOk());
  ASSERT_THAT(Put(*photos, {.id = "b", .content = ImageInput{"blue"}}), IsOk());
  // The text weighs next to nothing: what counts is which frames it chose.
  const auto best_beside = [&](const std::string& text) {
    return Ids({.collection = "photos",
                .parts = {{VideoInput{"red red red blue"}, 10},
                          {TextInput{text}, 0.001F}}})
        .front();
  };
  EXPECT_EQ(best_beside("red"), "r");
  EXPECT_EQ(best_beside("blue"), "b");
}

TEST_F(EngineTest, AddsTheWeightedParts) {
  CreatePoints();
  EXPECT_THAT(
      Ids(Points({{EmbeddingInput{{1, 0}}, 3}, {EmbeddingInput{{0, 1}}, 1}})),
      ElementsAre("a", "c", "b"));
  EXPECT_THAT(
      Ids(Points({{EmbeddingInput{{1, 0}}, 1}, {EmbeddingInput{{0, 1}}, -2}})),
      ElementsAre("a", "c", "b"));
}

TEST_F(EngineTest, ALongVectorCountsNoMoreThanAShortOne) {
  CreatePoints();
  EXPECT_THAT(
      Ids(Points({{EmbeddingInput{{100, 0}}}, {EmbeddingInput{{0, 1}}}})),
      ElementsAre("c", "a", "b"));
}

TEST_F(EngineTest, AStoredItemFindsItsNeighboursAndNotItself) {
  CreatePoints();
  EXPECT_THAT(Ids(Points({{StoredItemInput{"a"}}})), ElementsAre("c", "b"));
  SearchQuery nearest = Points({{StoredItemInput{"a"}}});
  nearest.k = 1;
  EXPECT_THAT(Ids(nearest), ElementsAre("c"));
  EXPECT_THAT(Search(Points({{StoredItemInput{"nobody"}}})),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nobody")));
}

TEST_F(EngineTest, LeavesOutWhatScoresTooLow) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{1, 0}}}});
  query.min_score = 0.5F;
  EXPECT_THAT(Ids(query), ElementsAre("a", "c"));
}

TEST_F(EngineTest, ReportsStagesVersionAndCount) {
  CreatePoints();
  RequestContext context(&clock_, "test");
  const SearchResult result =
      ValueOrDie(Search(context, Points({{EmbeddingInput{{1, 0}}}})));
  EXPECT_EQ(result.item_count, 3);
  EXPECT_EQ(result.index_version, 1);
  ASSERT_EQ(context.stage_times().size(), 2);
  EXPECT_EQ(context.stage_times()[0].stage, "search");
  EXPECT_EQ(context.stage_times()[1].stage, "fetch");
}

TEST_F(EngineTest, NamesTheFieldOfABadQuery) {
  CreatePoints();
  CreatePhotos();
  const auto field_of = [&](const SearchQuery& query) {
    const absl::Status status = Search(query).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return GetField(status);
  };
  EXPECT_THAT(field_of(Points({})), Optional(Eq("query.parts")));
  EXPECT_THAT(
      field_of(Points({{EmbeddingInput{{1, 0}}}, {EmbeddingInput{{1, 0, 0}}}})),
      Optional(Eq("query.parts[1].embedding")));
  EXPECT_THAT(field_of(Points({{EmbeddingInput{{1, 0}}, 0}})),
              Optional(Eq("query.parts[0].weight")));
  EXPECT_THAT(field_of(Points({{EmbeddingInput{{1, 0}}, 11}})),
              Optional(Eq("query.parts[0].weight")));
  // Opposite parts leave nothing to look for.
  EXPECT_THAT(field_of(Points(
                  {{EmbeddingInput{{1, 0}}, 1}, {EmbeddingInput{{1, 0}}, -1}})),
              Optional(Eq("query.parts")));
  SearchQuery too_many = Points({{EmbeddingInput{{1, 0}}}});
  too_many.k = 51;
  EXPECT_THAT(field_of(too_many), Optional(Eq("page_size")));
  const auto photos = [](absl::string_view text) {
    return SearchQuery{.collection = "photos", .parts = {{TextInput{text}}}};
  };
  EXPECT_THAT(field_of(photos("")), Optional(Eq("query.parts[0].text")));
  EXPECT_THAT(field_of(photos("\xff")), Optional(Eq("query.parts[0].text")));
  EXPECT_THAT(field_of(photos(std::string(101, 'x'))),
              Optional(Eq("query.parts[0].text")));
  EXPECT_THAT(
      field_of({.collection = "photos", .parts = {{ImageInput{"nonsense"}}}}),
      Optional(Eq("query.parts[0].image.content")));
}

TEST_F(EngineTest, RefusesTextWithoutAModelOrWithAnotherOne) {
  CreatePoints();
  EXPECT_THAT(Search(Points({{TextInput{"red"}}})),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("embeddings only")));
  auto photos = CreatePhotos();
  ASSERT_THAT(Put(*photos, {.id = "r", .content = ImageInput{"red"}}), IsOk());

  // Another package of the same name.
  std::shared_ptr<const Model> fake = MakeFakeModel("fake", 32);
  ModelInfo info = fake->info();
  info.fingerprint = "another";
  models_.Put(std::make_shared<const Model>(info, fake->preprocessing(),
                                            std::make_unique<FakeTokenizer>(),
                                            std::make_unique<FakeEncoder>(32)));
  const SearchQuery by_text = {.collection = "photos",
                               .parts = {{TextInput{"red"}}}};
  EXPECT_THAT(Search(by_text),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("index the collection again")));
  EXPECT_THAT(Put(*photos, {.id = "x", .content = ImageInput{"red"}}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  // Stored vectors can still be compared with each other.
  EXPECT_THAT(
      Search({.collection = "photos", .parts = {{StoredItemInput{"r"}}}}),
      IsOk());
}

TEST_F(EngineTest, StopsForCallersWhoHaveGoneAndForDeadlines) {
  CreatePoints();
  const SearchQuery query = Points({{EmbeddingInput{{1, 0}}}});
  RequestContext cancelled(&clock_, "test");
  cancelled.Cancel();
  EXPECT_THAT(Search(cancelled, query), StatusIs(absl::StatusCode::kCancelled));
  RequestContext late(&clock_, "test", absl::InfinitePast());
  EXPECT_THAT(Search(late, query),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(EngineTest, PreparesItemsAndNamesWhatIsWrong) {
  auto photos = CreatePhotos();
  const auto field_of = [&](const UpsertInput& input) {
    const absl::Status status = Put(*photos, input);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return GetField(status);
  };
  EXPECT_THAT(field_of({.id = "", .content = ImageInput{"red"}}),
              Optional(Eq("id")));
  EXPECT_THAT(
      field_of({.id = std::string(513, 'x'), .content = ImageInput{"red"}}),
      Optional(Eq("id")));
  EXPECT_THAT(field_of({.id = "\xc3", .content = ImageInput{"red"}}),
              Optional(Eq("id")));
  EXPECT_THAT(field_of({.id = "a", .content = ImageInput{"nonsense"}}),
              Optional(Eq("image.content")));
  EXPECT_THAT(field_of({.id = "a", .content = EmbeddingInput{{1}}}),
              Optional(Eq("embedding")));
  EXPECT_THAT(field_of({.id = "a",
                        .content = ImageInput{"red"},
                        .payload = std::string(21, 'x')}),
              Optional(Eq("payload")));
  EXPECT_THAT(Put(*photos, {.id = "a",
                            .content = ImageInput{"red"},
                            .model_fingerprint = "another"}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("fingerprint-of-fake")));
  EXPECT_EQ(photos->store().count(), 0);
}

TEST_F(EngineTest, CompletesACollection) {
  v1::Collection wanted;
  wanted.set_name("photos");
  const v1::Collection created = ValueOrDie(engine_.CreateCollection(wanted));
  EXPECT_EQ(created.model(), "fake");
  EXPECT_EQ(created.model_fingerprint(), "fingerprint-of-fake");
  EXPECT_EQ(created.dimension(), 32);
  EXPECT_EQ(created.metric(), v1::METRIC_COSINE);
}

TEST_F(EngineTest, RefusesCollectionsThatCannotBe) {
  v1::Collection wanted;
  wanted.set_name("photos");
  wanted.set_dimension(31);
  EXPECT_EQ(GetField(engine_.CreateCollection(wanted).status()),
            "collection.dimension");
  EXPECT_EQ(GetField(engine_.CreateCollection(Record("points", 0)).status()),
            "collection.dimension");
  EXPECT_EQ(GetField(engine_.CreateCollection(Record("points", 4097)).status()),
            "collection.dimension");
  EXPECT_EQ(GetField(engine_.CreateCollection(Record("a/b", 2)).status()),
            "collection.name");
  wanted.set_model("unknown");
  EXPECT_THAT(engine_.CreateCollection(wanted),
              StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace quern
