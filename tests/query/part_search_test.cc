#include "engine/query/part_search.h"

#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/blocking_counter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "engine/fine/overlap.h"
#include "engine/query/engine.h"
#include "tests/query/fake_collection.h"
#include "tests/query/unlisted_item_store.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

FineScore Found(std::vector<Evidence> evidence) {
  return {.score = evidence.front().score, .evidence = std::move(evidence)};
}

TEST(RankPartsTest, PartsOfAllItemsCompete) {
  const std::vector<ScoredId> found = {{"a", 0.4F}, {"b", 0.2F}};
  FineScores scores;
  scores.scores["a"] = Found({{.score = 0.3F}, {.score = 0.1F}});
  scores.scores["b"] = Found({{.score = 0.6F}});
  const auto parts = RankParts({.weight = 0.25F}, found, {0.4F, 0.2F}, scores);
  ASSERT_THAT(parts, SizeIs(3));
  EXPECT_EQ(parts[0].id, "a");
  EXPECT_FLOAT_EQ(parts[0].score, 0.75F * 0.4F + 0.25F * 0.3F);
  EXPECT_EQ(parts[1].id, "a");
  EXPECT_FLOAT_EQ(*parts[1].fine, 0.1F);
  EXPECT_EQ(parts[2].id, "b");
  EXPECT_FLOAT_EQ(parts[2].score, 0.75F * 0.2F + 0.25F * 0.6F);
  EXPECT_EQ(RankParts({.weight = 1}, found, {0.4F, 0.2F}, scores)[0].id, "b");
}

TEST(RankPartsTest, EqualScoresGoByIdThenAsTheGrounderHasThem) {
  const auto span = [](double start) {
    return Evidence{.span = TimeSpan{start, start + 1}, .score = 0.5F};
  };
  FineScores scores;
  scores.scores["b"] = Found({span(7), span(3)});
  scores.scores["a"] = Found({span(5)});
  const auto parts =
      RankParts({}, {{"b", 0.5F}, {"a", 0.5F}}, {0.5F, 0.5F}, scores);
  ASSERT_THAT(parts, SizeIs(3));
  EXPECT_EQ(parts[0].id, "a");
  EXPECT_EQ(parts[1].evidence.span->start, 7);
  EXPECT_EQ(parts[2].evidence.span->start, 3);
}

TEST(RankPartsTest, LeavesOutWhatScoresTooLowOrIsNotThere) {
  FineScores scores;
  scores.scores["a"] = Found({{.score = 0.9F, .probability = 0.7F},
                              {.score = 0.5F, .probability = 0.4F}});
  const std::vector<ScoredId> found = {{"a", 0.5F}};
  EXPECT_THAT(RankParts({.min_probability = 0.5}, found, {0.5F}, scores),
              SizeIs(1));
  EXPECT_THAT(RankParts({.min_probability = 0.8}, found, {0.5F}, scores),
              IsEmpty());
  EXPECT_THAT(RankParts({.min_probability = 0}, found, {0.5F}, scores),
              SizeIs(2));
  EXPECT_THAT(
      RankParts({.weight = 1, .min_score = 0.6F}, found, {0.5F}, scores),
      SizeIs(1));
}

TEST(RankPartsTest, AnItemThatWasNotLookedIntoIsOneHit) {
  FineScores scores;
  scores.gone = {"gone"};
  scores.without_parts = {"bare"};
  const std::vector<ScoredId> found = {
      {"late", 0.5F}, {"gone", 0.4F}, {"bare", 0.3F}};
  const std::vector<float> cosines = {0.5F, 0.4F, 0.3F};
  const auto parts = RankParts({}, found, cosines, scores);
  ASSERT_THAT(parts, SizeIs(1));
  EXPECT_EQ(parts[0].id, "late");
  EXPECT_FLOAT_EQ(parts[0].score, 0.5F);
  EXPECT_FALSE(parts[0].fine.has_value());
  EXPECT_FALSE(parts[0].evidence.box.has_value());
  // Nothing says that what was asked for is there.
  EXPECT_THAT(RankParts({.min_probability = 0.1}, found, cosines, scores),
              IsEmpty());
}

TEST(PartsMissingTest, SaysWhatAndHowMany) {
  FineScores scores;
  scores.scores["a"] = Found({{.score = 1}});
  scores.gone = {"b"};
  scores.without_parts = {"c"};
  const std::vector<ScoredId> found = {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}};
  EXPECT_THAT(
      ValueOrDie(PartsMissing({}, {}, found, scores)),
      ElementsAre(AllOf(HasSubstr("of 4 pictures, 1 keep no grid")),
                  AllOf(HasSubstr("1 of 4 pictures were not looked into"),
                        HasSubstr("given as a whole"))));
  EXPECT_THAT(ValueOrDie(PartsMissing({.granularity = Granularity::kSegment},
                                      {.min_probability = 0.5}, found, scores)),
              ElementsAre(HasSubstr("keep no frames"),
                          AllOf(HasSubstr("videos"), HasSubstr("left out"))));
  scores.scores.clear();
  scores.without_parts = {"a", "c", "d"};
  EXPECT_THAT(PartsMissing({}, {}, found, scores),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("none of the 3 pictures"),
                             HasSubstr("index them again"))));
  EXPECT_THAT(ValueOrDie(PartsMissing({}, {}, {}, {})), IsEmpty());
}

// Reads "blue red" as a picture that is blue on the left and red on the right;
// every colour gets as many columns.
class StripeDecoder final : public ImageDecoder {
 public:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t,
                                 int64_t) const override {
    const std::vector<std::string> colors = absl::StrSplit(encoded, ' ');
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      const std::string& color = colors[i % 16 * colors.size() / 16];
      const uint8_t red = color == "red" ? 255 : 0;
      const uint8_t blue = color == "blue" ? 255 : 0;
      image.rgb.insert(image.rgb.end(), {red, 0, blue});
    }
    return image;
  }
};

// A store that cannot be read when parts are asked for.
class NoPartsStore final : public ForwardingItemStore {
 public:
  using ForwardingItemStore::ForwardingItemStore;

  absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const override {
    if (parts.parts) return absl::DataLossError("a damaged file");
    return ForwardingItemStore::Get(ids, parts);
  }
};

// An index that nobody may ask.
class UnaskedIndex final : public FakeVectorIndex {
 public:
  using FakeVectorIndex::FakeVectorIndex;

  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext&, MatrixView, const VectorSearchOptions&,
      SearchStats*) const override {
    return absl::InternalError("the index of items was asked");
  }
};

// Something that is certain above a cosine of about a half.
constexpr CalibrationSpec kCalibration = {
    .bias = -10, .peak = 20, .threshold = 0.5};

std::shared_ptr<const Model> MakeModel(const std::string& name,
                                       std::vector<std::string> capabilities,
                                       bool is_calibrated) {
  const auto fake = MakeFakeModel(name);
  ModelInfo info = fake->info();
  info.capabilities = std::move(capabilities);
  if (is_calibrated) info.regions = info.segments = kCalibration;
  return std::make_shared<const Model>(std::move(info), fake->preprocessing(),
                                       std::make_unique<FakeTokenizer>(),
                                       std::make_unique<FakeEncoder>());
}

class PartSearchTest : public ::testing::Test {
 protected:
  PartSearchTest()
      : catalog_(ValueOrDie(Catalog::Open({.path = directory_.path() + "/data",
                                           .factories = Factories(),
                                           .clock = &clock_}))),
        embedder_({.max_text_bytes = 100}, &decoder_, &videos_, &calls_),
        stage_({.threads = 2}, &calls_),
        engine_({.max_page_size = 50, .max_payload_bytes = 100}, &embedder_,
                &models_, catalog_.get(), {.grounding = &stage_}) {
    models_.Put(MakeModel("calibrated",
                          {"image.global", "image.dense", "text.global"},
                          /*is_calibrated=*/true));
    models_.Put(MakeModel("bare", {"image.global", "text.global"},
                          /*is_calibrated=*/false));
    models_.Put(MakeFakeModel("fake"));
  }

  CollectionFactories Factories() {
    CollectionFactories factories = disk_.Factories();
    const auto open = factories.open_store;
    factories.open_store = [this, open](const std::string& path,
                                        const v1::Collection& record)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      auto store = open(path, record);
      if (store.ok() && record.name() == "damaged") {
        return std::make_unique<NoPartsStore>(*std::move(store));
      }
      if (store.ok() && record.name() == "unlisted") {
        return std::make_unique<UnlistedItemStore>(*std::move(store));
      }
      return store;
    };
    const auto create = factories.create_index;
    factories.create_index =
        [create](
            const v1::Collection& record, const std::string& directory,
            ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      if (record.name() != "by-parts") return create(record, directory, store);
      return std::make_unique<UnaskedIndex>(record.dimension());
    };
    return factories;
  }

  std::shared_ptr<Collection> Create(
      const std::string& name, const std::string& model = "calibrated",
      v1::PartsConfig::Dense dense = v1::PartsConfig::DENSE_14X14,
      v1::Metric metric = v1::METRIC_COSINE) {
    v1::Collection wanted;
    wanted.set_name(name);
    wanted.set_model(model);
    wanted.set_metric(metric);
    wanted.mutable_parts()->set_dense(dense);
    ValueOrDie(engine_.CreateCollection(wanted));
    return ValueOrDie(catalog_->Get(name));
  }

  // One whose items are found by their parts.
  std::shared_ptr<Collection> CreateSearchable(const std::string& name) {
    v1::Collection wanted;
    wanted.set_name(name);
    wanted.set_model("calibrated");
    wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_14X14);
    wanted.mutable_parts()->set_searchable(true);
    v1::PayloadField& field = *wanted.add_payload_fields();
    field.set_path("shelf");
    field.set_type(v1::PayloadField::TYPE_NUMBER);
    ValueOrDie(engine_.CreateCollection(wanted));
    return ValueOrDie(catalog_->Get(name));
  }

  // Little of "crowd" and of "clip" is blue, so little of their vectors is; the
  // ones that have no blue look more like it as a whole.
  void FillCrowd(Collection& collection) {
    Put(collection, {.id = "crowd", .content = ImageInput{"red red red blue"}});
    Put(collection,
        {.id = "clip",
         .content = VideoInput{"red red red red red red red blue red red"}});
    Put(collection, {.id = "half", .content = ImageInput{"blue red"}});
    Item half =
        *ValueOrDie(collection.store().Get({"half"}, {.embedding = true}))[0];
    Put(collection, {.id = "picture", .content = ImageInput{"red"}});
    Put(collection, {.id = "video", .content = VideoInput{"red red red"}});
    for (const char* id : {"picture", "video"}) {
      Item decoy =
          *ValueOrDie(collection.store().Get({id}, {.parts = true}))[0];
      decoy.embedding = half.embedding;
      ASSERT_THAT(collection.Upsert({decoy}), IsOk());
    }
    ASSERT_THAT(collection.Delete({"half"}), IsOk());
  }

  static SearchQuery ForOne(const std::string& collection,
                            Granularity granularity) {
    SearchQuery query = For(collection, "blue", granularity);
    query.rerank = {.method = RerankMethod::kBestPart, .depth = 1};
    query.explain = true;
    return query;
  }

  // Pictures and videos with what a query could be about.
  void Fill(Collection& collection) {
    Put(collection, {.id = "left", .content = ImageInput{"blue red"}});
    Put(collection, {.id = "right", .content = ImageInput{"red blue"}});
    Put(collection, {.id = "none", .content = ImageInput{"red"}});
    Put(collection, {.id = "text", .content = TextInput{"blue"}});
    Put(collection,
        {.id = "video",
         .content = VideoInput{"red red blue blue blue red red red"}});
  }

  void Put(Collection& collection, const UpsertInput& input) {
    RequestContext context(&clock_, "test");
    const auto item =
        Await<absl::StatusOr<PreparedItem>>([&](const auto& done) {
          engine_.PrepareItem(context, collection, input, done);
        });
    ASSERT_THAT(item, IsOk());
    ASSERT_THAT(collection.Upsert({item->item}), IsOk());
  }

  static SearchQuery For(const std::string& collection, absl::string_view text,
                         Granularity granularity = Granularity::kRegion) {
    return {.collection = collection,
            .parts = {{TextInput{text}}},
            .granularity = granularity};
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

  static std::vector<std::string> Ids(const SearchResult& result) {
    std::vector<std::string> ids;
    for (const SearchHit& hit : result.hits) ids.push_back(hit.item.id);
    return ids;
  }

  void ExpectField(const SearchQuery& query, const std::string& field,
                   const std::string& text) {
    const absl::Status status = Search(query).status();
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
    EXPECT_EQ(GetField(status), field);
  }

  RealClock clock_;
  StripeDecoder decoder_;
  FakeVideoDecoder videos_;
  ModelRegistry models_;
  TemporaryDirectory directory_;
  FakeDisk disk_;
  std::unique_ptr<Catalog> catalog_;
  ThreadPool calls_{{.name = "calls"}};
  Embedder embedder_;
  FineStage stage_;
  Engine engine_;
};

TEST_F(PartSearchTest, FindsTheRegionInThePicture) {
  Fill(*Create("c"));
  const SearchResult result = ValueOrDie(Search(For("c", "blue")));
  EXPECT_THAT(result.degraded_reasons, IsEmpty());
  EXPECT_EQ(result.item_count, 5);
  ASSERT_GE(result.hits.size(), 3u);
  for (int i : {0, 1}) {
    const SearchHit& hit = result.hits[i];
    const bool is_left = hit.item.id == "left";
    EXPECT_TRUE(is_left || hit.item.id == "right") << hit.item.id;
    ASSERT_THAT(hit.evidence, SizeIs(1));
    const Box expected = {.left = is_left ? 0 : 0.5F,
                          .top = 0,
                          .right = is_left ? 0.5F : 1,
                          .bottom = 1};
    EXPECT_GT(Iou(*hit.evidence[0].box, expected), 0.7);
    ASSERT_THAT(hit.stage_scores, SizeIs(2));
    EXPECT_EQ(hit.stage_scores[0].stage, "coarse");
    EXPECT_EQ(hit.stage_scores[1].stage, "ground");
    EXPECT_FLOAT_EQ(hit.score,
                    (1 - kDefaultPartWeight) * hit.stage_scores[0].score +
                        kDefaultPartWeight * hit.stage_scores[1].score);
    EXPECT_EQ(hit.probability, hit.evidence[0].probability);
    EXPECT_GT(*hit.probability, 0.9);
  }
  // Neither the text nor the video are pictures.
  EXPECT_THAT(Ids(result), Each(testing::AnyOf("left", "right", "none")));
}

TEST_F(PartSearchTest, FindsTheSegmentInTheVideo) {
  const auto collection = Create("c");
  Fill(*collection);
  Put(*collection, {.id = "other", .content = VideoInput{"red red red red"}});
  const SearchResult result =
      ValueOrDie(Search(For("c", "blue", Granularity::kSegment)));
  ASSERT_GE(result.hits.size(), 2u);
  EXPECT_EQ(result.hits[0].item.id, "video");
  ASSERT_THAT(result.hits[0].evidence, SizeIs(1));
  // Moments begin and end between two frames.
  EXPECT_DOUBLE_EQ(result.hits[0].evidence[0].span->start, 0.75);
  EXPECT_DOUBLE_EQ(result.hits[0].evidence[0].span->end, 2.25);
  EXPECT_THAT(Ids(result), Each(testing::AnyOf("video", "other")));
}

TEST_F(PartSearchTest, WhatIsNowhereIsNotFound) {
  Fill(*Create("c"));
  for (const Granularity granularity :
       {Granularity::kRegion, Granularity::kSegment}) {
    SearchQuery query = For("c", "yellow", granularity);
    query.min_probability = 0.5;
    EXPECT_THAT(ValueOrDie(Search(query)).hits, IsEmpty());
    query.min_probability.reset();
    EXPECT_THAT(ValueOrDie(Search(query)).hits, testing::Not(IsEmpty()));
    query.parts = {{TextInput{"blue"}}};
    query.min_probability = 0.5;
    const SearchResult result = ValueOrDie(Search(query));
    EXPECT_THAT(result.hits, testing::Not(IsEmpty()));
    for (const SearchHit& hit : result.hits) {
      EXPECT_GE(*hit.probability, 0.5);
      EXPECT_NE(hit.item.id, "none");
    }
  }
}

TEST_F(PartSearchTest, WordsOfPlaceChooseAmongThings) {
  const auto collection = Create("c");
  Put(*collection, {.id = "two", .content = ImageInput{"blue red red blue"}});
  for (const auto& [text, left] :
       {std::pair("the left blue", 0.0F), std::pair("the right blue", 0.75F),
        std::pair("blue to the right of red", 0.75F)}) {
    const SearchResult result = ValueOrDie(Search(For("c", text)));
    ASSERT_THAT(result.hits, testing::Not(IsEmpty()));
    EXPECT_NEAR(result.hits[0].evidence[0].box->left, left, 0.13) << text;
  }
}

TEST_F(PartSearchTest, PagesAreOfOneOrderedList) {
  Fill(*Create("c"));
  SearchQuery query = For("c", "blue");
  const SearchResult all = ValueOrDie(Search(query));
  ASSERT_GT(all.hits.size(), 3u);
  EXPECT_FALSE(all.has_more);
  query.k = 2;
  std::vector<float> scores;
  for (size_t page = 0; page < all.hits.size(); page += 2) {
    const SearchResult result = ValueOrDie(Search(query));
    for (size_t i = 0; i < result.hits.size(); ++i) {
      const SearchHit& expected = all.hits[page + i];
      EXPECT_EQ(result.hits[i].item.id, expected.item.id);
      EXPECT_EQ(result.hits[i].score, expected.score);
      EXPECT_EQ(result.hits[i].evidence[0].box->left,
                expected.evidence[0].box->left);
      scores.push_back(result.hits[i].score);
    }
    EXPECT_EQ(result.has_more, page + 2 < all.hits.size());
    query.offset = result.next_offset;
    query.page_state = result.page_state;
  }
  EXPECT_THAT(scores, SizeIs(all.hits.size()));
  EXPECT_TRUE(std::is_sorted(scores.rbegin(), scores.rend()));
  Put(*ValueOrDie(catalog_->Get("c")),
      {.id = "new", .content = ImageInput{"red"}});
  query.offset = 2;
  ExpectField(query, "page_token", "older state");
}

TEST_F(PartSearchTest, GroupsByItemOrByAFieldOfThePayload) {
  const auto collection = Create("c");
  v1::Item item;
  (*item.mutable_payload()->mutable_fields())["id"].set_string_value("same");
  const std::string payload = item.payload().SerializeAsString();
  for (const char* id : {"a", "b"}) {
    Put(*collection, {.id = id,
                      .content = ImageInput{"blue red red blue"},
                      .payload = payload});
  }
  SearchQuery query = For("c", "blue");
  EXPECT_GT(ValueOrDie(Search(query)).hits.size(), 3u);
  query.group_by = "id";
  EXPECT_THAT(Ids(ValueOrDie(Search(query))), ElementsAre("a", "b"));
  query.group_size = 2;
  EXPECT_THAT(ValueOrDie(Search(query)).hits, SizeIs(4));
  query.group_size = 1;
  query.group_by = "nothing";
  EXPECT_THAT(ValueOrDie(Search(query)).hits, IsEmpty());
  (*item.mutable_payload()->mutable_fields())["album"].set_string_value("x");
  for (const char* id : {"a", "b"}) {
    Put(*collection, {.id = id,
                      .content = ImageInput{"blue red red blue"},
                      .payload = item.payload().SerializeAsString()});
  }
  query.group_by = "album";
  EXPECT_THAT(Ids(ValueOrDie(Search(query))), ElementsAre("a"));
}

TEST_F(PartSearchTest, LooksIntoTheDepthAlone) {
  Fill(*Create("c"));
  SearchQuery query = For("c", "blue");
  query.rerank = {.method = RerankMethod::kBestPart, .depth = 1, .weight = 1};
  query.explain = true;
  const SearchResult result = ValueOrDie(Search(query));
  const std::vector<std::string> ids = Ids(result);
  EXPECT_THAT(std::set<std::string>(ids.begin(), ids.end()), SizeIs(1));
  EXPECT_EQ(result.hits[0].score, result.hits[0].stage_scores[1].score);
  EXPECT_THAT(result.index.plan, HasSubstr("Looked into 1 of 1"));
}

TEST_F(PartSearchTest, AWeightedMixIsFoundAsAWholeAndItsTextsInIt) {
  Fill(*Create("c"));
  SearchQuery query = For("c", "blue");
  query.parts.push_back({ImageInput{"red blue"}, 2});
  query.parts.push_back({TextInput{"green"}, -1});
  const SearchResult result = ValueOrDie(Search(query));
  ASSERT_THAT(result.hits, testing::Not(IsEmpty()));
  EXPECT_GT(*result.hits[0].probability, 0.9);
  EXPECT_NEAR(
      result.hits[0].stage_scores[1].score,
      ValueOrDie(Search(For("c", "blue"))).hits[0].stage_scores[1].score, 1e-5);
}

TEST_F(PartSearchTest, DotProductsCountAsCosines) {
  Fill(*Create("c", "calibrated", v1::PartsConfig::DENSE_14X14,
               v1::METRIC_DOT_PRODUCT));
  SearchQuery query = For("c", "blue");
  query.parts[0].weight = 5;
  const SearchResult result = ValueOrDie(Search(query));
  const SearchHit& hit = result.hits.at(0);
  // The index of the test compares by cosine; the query has the length 5.
  EXPECT_NEAR(hit.score,
              (1 - kDefaultPartWeight) * hit.stage_scores[0].score / 5 +
                  kDefaultPartWeight * hit.stage_scores[1].score,
              1e-5);
}

TEST_F(PartSearchTest, RefusesWhatCannotBeLookedFor) {
  Fill(*Create("c"));
  SearchQuery query = For("c", "blue");
  query.parts = {{ImageInput{"blue"}}};
  ExpectField(query, "query.parts", "no text of positive weight");
  query.parts = {{ImageInput{"blue"}}, {TextInput{"red"}, -1}};
  ExpectField(query, "query.parts", "granularity REGION");
  query = For("c", "");
  ExpectField(query, "query.parts[0].text", "empty");
  query = For("c", "blue");
  query.modalities = {v1::MODALITY_VIDEO};
  ExpectField(query, "modalities", "pictures");
  query.modalities = {v1::MODALITY_VIDEO, v1::MODALITY_IMAGE};
  EXPECT_THAT(Search(query), IsOk());
  query.rerank = {.method = RerankMethod::kMatch};
  ExpectField(query, "rerank.method", "BEST_PART");
  query.rerank = {.depth = 0};
  ExpectField(query, "rerank.depth", "1 to");
  query = For("c", "blue");
  query.parts = {{EmbeddingInput{std::vector<float>(32, 1)}}};
  ExpectField(query, "query.parts", "no text");
}

TEST_F(PartSearchTest, SaysWhatAModelOrACollectionLacks) {
  const auto refused = [&](const std::string& name, Granularity granularity) {
    return Search(For(name, "blue", granularity)).status();
  };
  const auto code = absl::StatusCode::kFailedPrecondition;
  Create("flat", "bare", v1::PartsConfig::DENSE_OFF);
  EXPECT_THAT(
      refused("flat", Granularity::kRegion),
      StatusIs(code, AllOf(HasSubstr("granularity REGION"),
                           HasSubstr("lacks the capability image.dense"))));
  // Frames are kept by default where anything is said of parts.
  EXPECT_THAT(refused("flat", Granularity::kSegment), IsOk());
  Create("off", "fake", v1::PartsConfig::DENSE_OFF);
  EXPECT_THAT(
      refused("off", Granularity::kRegion),
      StatusIs(code, AllOf(HasSubstr("keeps no grid"), HasSubstr("parts.dense"),
                           HasSubstr("index its items again"))));
  v1::Collection plain;
  plain.set_name("plain");
  plain.set_model("fake");
  ValueOrDie(engine_.CreateCollection(plain));
  EXPECT_THAT(refused("plain", Granularity::kSegment),
              StatusIs(code, AllOf(HasSubstr("keeps no frames"),
                                   HasSubstr("parts.frames_per_second"))));
  ValueOrDie(engine_.CreateCollection(Record("points", 32)));
  EXPECT_THAT(refused("points", Granularity::kRegion),
              StatusIs(code, HasSubstr("has no model")));
  Create("c", "fake");
  SearchQuery query = For("c", "blue");
  query.min_probability = 0.5;
  EXPECT_THAT(Search(query), StatusIs(code, HasSubstr("no calibration")));
  query.min_probability = 0;
  EXPECT_THAT(ValueOrDie(Search(query)).hits, IsEmpty());
}

TEST_F(PartSearchTest, ItemsWithoutPartsAreLeftOutAndSaid) {
  const auto collection = Create("c");
  Put(*collection, {.id = "kept", .content = ImageInput{"blue red"}});
  const auto bare = [&](const std::string& id, const std::string& parts) {
    Item item = *ValueOrDie(collection->store().Get(
        {"kept"}, {.embedding = true, .parts = true}))[0];
    item.id = id;
    item.parts = parts;
    ASSERT_THAT(collection->Upsert({item}), IsOk());
  };
  bare("old", "");
  bare("damaged", "damaged");
  const SearchResult result = ValueOrDie(Search(For("c", "blue")));
  EXPECT_THAT(Ids(result), Each(std::string("kept")));
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("of 3 pictures, 2 keep no grid")));
  ASSERT_THAT(collection->Delete({"kept"}), IsOk());
  EXPECT_THAT(Search(For("c", "blue")),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("none of the 2 pictures")));
}

TEST_F(PartSearchTest, ADamagedStoreIsSaid) {
  const auto collection = Create("damaged");
  Put(*collection, {.id = "a", .content = ImageInput{"blue red"}});
  EXPECT_THAT(Search(For("damaged", "blue")),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(PartSearchTest, ManyItemsAreSharedOutAmongTheThreads) {
  const auto collection = Create("c");
  std::set<std::string> expected;
  for (int i = 0; i < 100; ++i) {
    expected.insert(absl::StrCat(i));
    Put(*collection,
        {.id = absl::StrCat(i), .content = ImageInput{"blue red"}});
  }
  SearchQuery query = For("c", "blue");
  query.k = 50;
  query.group_by = "id";
  std::vector<std::string> found = Ids(ValueOrDie(Search(query)));
  query.offset = 50;
  // Beyond the largest page nothing is to be had.
  ExpectField(query, "page_token", "damaged");
  EXPECT_THAT(found, SizeIs(50));
  const Engine inline_engine({}, &embedder_, &models_, catalog_.get());
  RequestContext context(&clock_, "test");
  query.offset = 0;
  query.k = 100;
  const auto alone = Await<absl::StatusOr<SearchResult>>(
      [&](const auto& done) { inline_engine.Search(context, query, done); });
  found = Ids(ValueOrDie(alone));
  EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), expected);
}

TEST_F(PartSearchTest, AFullQueueGivesWholeItems) {
  Fill(*Create("c"));
  FineStage stage({.threads = 1, .max_queue = 1}, &calls_);
  const Engine engine({}, &embedder_, &models_, catalog_.get(),
                      {.grounding = &stage});
  const RequestContext idle(&clock_, "idle");
  absl::Notification running;
  absl::Notification open;
  absl::BlockingCounter done(2);
  const auto wait = [&](const RequestContext&) {
    if (!running.HasBeenNotified()) running.Notify();
    open.WaitForNotification();
    return FineScores();
  };
  const auto count = [&](const absl::StatusOr<FineScores>&) {
    done.DecrementCount();
  };
  stage.Run(idle, wait, count);
  running.WaitForNotification();
  stage.Run(idle, wait, count);
  RequestContext context(&clock_, "test");
  SearchQuery query = For("c", "blue");
  const SearchResult result = ValueOrDie(
      Await<absl::StatusOr<SearchResult>>([&](const auto& search_done) {
        engine.Search(context, query, search_done);
      }));
  open.Notify();
  done.Wait();
  EXPECT_THAT(result.hits, SizeIs(3));
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("queue of scoring is full"),
                          HasSubstr("3 of 3 pictures were not looked into")));
  for (const SearchHit& hit : result.hits) {
    ASSERT_THAT(hit.evidence, SizeIs(1));
    EXPECT_FALSE(hit.evidence[0].box.has_value());
    EXPECT_THAT(hit.stage_scores, SizeIs(1));
  }
}

TEST_F(PartSearchTest, WhatIsNotDoneInTimeComesAsAWhole) {
  const auto collection = Create("c");
  for (int i = 0; i < 100; ++i) {
    Put(*collection,
        {.id = absl::StrCat(i), .content = ImageInput{"blue red"}});
  }
  // Each look at the time takes a second of it.
  class TickingClock final : public Clock {
   public:
    absl::Time Now() const override {
      absl::MutexLock lock(&mutex_);
      return now_ += absl::Seconds(1);
    }

   private:
    mutable absl::Mutex mutex_;
    mutable absl::Time now_ = absl::UnixEpoch();
  } clock;
  const auto list = std::make_shared<const PartList>(
      PartList{.collection = collection,
               .ids = {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"},
               .grounder = PartGrounder::Regions(
                   {{.embedding = std::vector<float>(32, 0.1F)}}, {})});
  const RequestContext context(&clock, "test",
                               absl::UnixEpoch() + absl::Seconds(12));
  const FineScores scores =
      ValueOrDie(Await<absl::StatusOr<FineScores>>([&](const auto& done) {
        GroundShortList(nullptr, context, list, done);
      }));
  // The best ones first, and not all.
  EXPECT_GT(scores.scores.size(), 0u);
  EXPECT_LT(scores.scores.size(), 10u);
  for (size_t i = 1; i <= scores.scores.size(); ++i) {
    EXPECT_TRUE(scores.scores.contains(absl::StrCat(i)));
  }
}

TEST_F(PartSearchTest, TheIndexOfPartsFindsWhatAWholeHides) {
  FillCrowd(*Create("c"));
  FillCrowd(*CreateSearchable("by-parts"));
  for (const auto& [granularity, hidden, shown] :
       {std::tuple(Granularity::kRegion, "crowd", "picture"),
        std::tuple(Granularity::kSegment, "clip", "video")}) {
    const SearchResult whole = ValueOrDie(Search(ForOne("c", granularity)));
    EXPECT_THAT(Ids(whole), Each(std::string(shown)));
    const SearchResult found =
        ValueOrDie(Search(ForOne("by-parts", granularity)));
    EXPECT_THAT(found.degraded_reasons, IsEmpty());
    ASSERT_THAT(Ids(found), Each(std::string(hidden)));
    const SearchHit& hit = found.hits.at(0);
    EXPECT_GT(*hit.probability, 0.9);
    if (granularity == Granularity::kRegion) {
      EXPECT_NEAR(hit.evidence[0].box->left, 0.75, 0.13);
    } else {
      // The frame at 3.5 seconds.
      EXPECT_LE(hit.evidence[0].span->start, 3.25);
      EXPECT_GE(hit.evidence[0].span->end, 3.75);
      EXPECT_LE(hit.evidence[0].span->end - hit.evidence[0].span->start, 1);
    }
    // The coarse score is the whole item's, as without such an index.
    SearchQuery both = ForOne("c", granularity);
    both.rerank->depth = 2;
    both.group_by = "id";
    const SearchResult expected = ValueOrDie(Search(both));
    ASSERT_EQ(expected.hits.at(0).item.id, hidden);
    EXPECT_NEAR(hit.stage_scores[0].score,
                expected.hits[0].stage_scores[0].score, 1e-5);
    EXPECT_NEAR(hit.score, expected.hits[0].score, 1e-5);
  }
}

TEST_F(PartSearchTest, ExplainsThatPartsWereCompared) {
  const auto collection = CreateSearchable("by-parts");
  FillCrowd(*collection);
  const SearchResult result =
      ValueOrDie(Search(ForOne("by-parts", Granularity::kSegment)));
  // The frames of both videos.
  EXPECT_THAT(result.index.plan,
              AllOf(HasSubstr("Compared the 13 parts of 2 videos"),
                    HasSubstr("in the index of parts"),
                    HasSubstr("Looked into 1 of 1")));
  EXPECT_EQ(result.index.shards_asked, 1);
  EXPECT_EQ(result.index.shards_answered, 1);
}

TEST_F(PartSearchTest, FiltersAndQueryItemsHoldInTheIndexOfParts) {
  const auto collection = CreateSearchable("by-parts");
  for (int shelf = 0; shelf < 20; ++shelf) {
    v1::Item item;
    (*item.mutable_payload()->mutable_fields())["shelf"].set_number_value(
        shelf);
    Put(*collection, {.id = absl::StrCat("p", shelf),
                      .content = ImageInput{shelf % 2 == 0 ? "blue" : "red"},
                      .payload = item.payload().SerializeAsString()});
  }
  SearchQuery query = For("by-parts", "blue");
  query.rerank = {.depth = 3};
  query.group_by = "id";
  EXPECT_THAT(Ids(ValueOrDie(Search(query))), ElementsAre("p0", "p10", "p12"));
  query.filter = "shelf > 12 AND shelf < 17";
  EXPECT_THAT(Ids(ValueOrDie(Search(query))), ElementsAre("p14", "p16", "p13"));
  query.rerank->depth = 100;
  EXPECT_THAT(ValueOrDie(Search(query)).hits, SizeIs(4));
  query.parts.push_back({StoredItemInput{"p14"}});
  EXPECT_THAT(Ids(ValueOrDie(Search(query))), ElementsAre("p16", "p13", "p15"));
  query.filter = "shelf > 100";
  EXPECT_THAT(ValueOrDie(Search(query)).hits, IsEmpty());
}

TEST_F(PartSearchTest, ItemsThatTheIndexOfPartsLacksAreSaid) {
  const auto collection = CreateSearchable("by-parts");
  Put(*collection, {.id = "kept", .content = ImageInput{"blue red"}});
  Item bare =
      *ValueOrDie(collection->store().Get({"kept"}, {.embedding = true}))[0];
  bare.id = "old";
  ASSERT_THAT(collection->Upsert({bare}), IsOk());
  const SearchResult result = ValueOrDie(Search(For("by-parts", "blue")));
  EXPECT_THAT(Ids(result), Each(std::string("kept")));
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("search: of 2 pictures, 1 keep no grid")));
  ASSERT_THAT(collection->Delete({"kept"}), IsOk());
  EXPECT_THAT(Search(For("by-parts", "blue")),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("none of the 1 pictures")));
  ASSERT_THAT(collection->Delete({"old"}), IsOk());
  EXPECT_THAT(ValueOrDie(Search(For("by-parts", "blue"))).hits, IsEmpty());
}

TEST_F(PartSearchTest, UntilTheIndexOfPartsIsMadeItemsAreFoundAsAWhole) {
  FillCrowd(*CreateSearchable("unlisted"));
  const SearchResult result =
      ValueOrDie(Search(ForOne("unlisted", Granularity::kRegion)));
  EXPECT_THAT(Ids(result), Each(std::string("picture")));
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(AllOf(HasSubstr("index of parts is being made"),
                                HasSubstr("pictures are found as a whole"))));
  // A search for whole items has nothing to do with it.
  EXPECT_THAT(ValueOrDie(Search(For("unlisted", "blue", Granularity::kItem)))
                  .degraded_reasons,
              IsEmpty());
}

TEST_F(PartSearchTest, SearchesOfALotAskTheIndexOfPartsAlone) {
  FillCrowd(*CreateSearchable("by-parts"));
  FillCrowd(*Create("c"));
  const std::vector<SearchQuery> queries = {
      For("by-parts", "blue"), For("by-parts", "blue"), For("c", "blue"),
      For("c", "blue"), For("by-parts", "red", Granularity::kSegment)};
  std::vector<std::unique_ptr<RequestContext>> contexts;
  std::vector<absl::StatusOr<SearchResult>> results(queries.size());
  absl::BlockingCounter left(static_cast<int>(queries.size()));
  std::vector<Engine::BatchedSearch> searches;
  for (size_t i = 0; i < queries.size(); ++i) {
    contexts.push_back(std::make_unique<RequestContext>(&clock_, "test"));
    searches.push_back({contexts.back().get(), &queries[i],
                        [&, i](absl::StatusOr<SearchResult> result) {
                          results[i] = std::move(result);
                          left.DecrementCount();
                        }});
  }
  engine_.SearchTogether(std::move(searches));
  left.Wait();
  for (size_t i = 0; i < queries.size(); ++i) {
    const SearchResult& result = ValueOrDie(results[i]);
    const SearchResult alone = ValueOrDie(Search(queries[i]));
    ASSERT_EQ(Ids(result), Ids(alone)) << i;
    for (size_t h = 0; h < alone.hits.size(); ++h) {
      EXPECT_EQ(result.hits[h].score, alone.hits[h].score);
    }
  }
}

TEST_F(PartSearchTest, EndsWhenTheCallerHasGone) {
  Fill(*Create("c"));
  RequestContext context(&clock_, "test");
  context.Cancel();
  EXPECT_THAT(Search(context, For("c", "blue")),
              StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace quern
