#include "engine/query/engine.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/struct.pb.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "tests/query/fake_collection.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_scorer.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::AllOf;
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
    if (encoded == "red and blue") return RedAndBlue();
    if (encoded == "red") color = {255, 0, 0};
    if (encoded == "blue") color = {0, 0, 255};
    if (color.empty()) return absl::InvalidArgumentError("is not a picture");
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      image.rgb.insert(image.rgb.end(), color.begin(), color.end());
    }
    return image;
  }

 private:
  // Red on the left, blue on the right, and twice as large before it was
  // reduced.
  static Image RedAndBlue() {
    Image image{
        .width = 16, .height = 16, .original_width = 32, .original_height = 32};
    for (int i = 0; i < 16 * 16; ++i) {
      const bool is_red = i % 16 < 8;
      image.rgb.push_back(is_red ? 255 : 0);
      image.rgb.push_back(0);
      image.rgb.push_back(is_red ? 0 : 255);
    }
    return image;
  }
};

// A scorer elsewhere: what it needs and answers is the test's.
class TestScorer final : public FakeScorer {
 public:
  absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& context) const override {
    ScorerInfo described = ValueOrDie(FakeScorer::Describe(context));
    described.needs = needs;
    described.max_candidates = max_candidates;
    return described;
  }

  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const ScoreRequest& request) const override {
    if (!failure.ok()) return failure;
    seen = request;
    if (!score.has_value()) return FakeScorer::Score(context, request);
    std::vector<CandidateScore> scores(request.candidates.size());
    for (CandidateScore& one : scores) one.score = *score;
    return scores;
  }

  ScoreNeeds needs{.embedding = true};
  int64_t max_candidates = 0;
  absl::Status failure;
  std::optional<float> score;  // Of all; null: the inner product.
  mutable ScoreRequest seen;
};

// The fake model with, or without, a capability.
std::shared_ptr<const Model> MakeModel(const std::string& name,
                                       std::vector<std::string> capabilities) {
  const auto fake = MakeFakeModel(name);
  ModelInfo info = fake->info();
  info.capabilities = std::move(capabilities);
  return std::make_shared<const Model>(std::move(info), fake->preprocessing(),
                                       std::make_unique<FakeTokenizer>(),
                                       std::make_unique<FakeEncoder>());
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest()
      : catalog_(ValueOrDie(Catalog::Open({.path = directory_.path() + "/data",
                                           .factories = disk_.Factories(),
                                           .clock = &clock_}))),
        embedder_({.max_text_bytes = 100, .media_roots = {directory_.path()}},
                  &decoder_, &videos_, &calls_),
        stage_({.threads = 2}, &calls_),
        engine_({.max_page_size = 50, .max_payload_bytes = 20}, &embedder_,
                &models_, catalog_.get(),
                {.stage = &stage_, .remote = &remote_, .max_media_bytes = 20}) {
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

  // Collection "parts" of a model, with a picture in two colours, a plain one
  // and a video of each.
  void CreateParts(const std::string& model = "fake") {
    v1::Collection wanted;
    wanted.set_name("parts");
    wanted.set_model(model);
    wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
    ValueOrDie(engine_.CreateCollection(wanted));
    const auto parts = ValueOrDie(catalog_->Get("parts"));
    ASSERT_THAT(
        Put(*parts, {.id = "both", .content = ImageInput{"red and blue"}}),
        IsOk());
    ASSERT_THAT(Put(*parts, {.id = "red", .content = ImageInput{"red"}}),
                IsOk());
    ASSERT_THAT(
        Put(*parts, {.id = "video", .content = VideoInput{"red red blue red"}}),
        IsOk());
  }

  static SearchQuery Reranked(RerankOptions rerank) {
    return {.collection = "parts",
            .parts = {{TextInput{"blue"}}},
            .rerank = rerank};
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
  TestScorer remote_;
  FineStage stage_;
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

TEST_F(EngineTest, KeepsTheGridOfAPictureAndTheFramesOfAVideo) {
  CreateParts();
  const auto items = ValueOrDie(ValueOrDie(catalog_->Get("parts"))
                                    ->store()
                                    .Get({"both", "video"}, {.parts = true}));
  const PartFeatures grid = ValueOrDie(DecodeParts(items[0]->parts));
  EXPECT_EQ(grid.shape.grid_height, 2);
  EXPECT_EQ(grid.shape.grid_width, 2);
  EXPECT_EQ(grid.shape.width, 32);
  EXPECT_EQ(grid.shape.height, 32);
  // Left and right differ, upper and lower do not.
  EXPECT_NE(grid.features.row(0), grid.features.row(1));
  EXPECT_EQ(grid.features.row(0), grid.features.row(2));
  const PartFeatures video = ValueOrDie(DecodeParts(items[1]->parts));
  EXPECT_EQ(video.shape.frames, 4);
  EXPECT_EQ(video.shape.duration, absl::Seconds(2));
  EXPECT_EQ(video.times[2], absl::Seconds(1));
  EXPECT_NE(video.features.row(2), video.features.row(3));
}

TEST_F(EngineTest, A14x14GridIsThatOfThePictureAtTwiceTheInputSize) {
  v1::Collection wanted;
  wanted.set_name("fine");
  wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_14X14);
  ValueOrDie(engine_.CreateCollection(wanted));
  const auto fine = ValueOrDie(catalog_->Get("fine"));
  ASSERT_THAT(Put(*fine, {.id = "a", .content = ImageInput{"red and blue"}}),
              IsOk());
  const auto items = ValueOrDie(fine->store().Get({"a"}, {.parts = true}));
  EXPECT_EQ(ValueOrDie(DecodePartsShape(items[0]->parts)).grid_width, 4);
}

TEST_F(EngineTest, TheBestPartTellsWhereTheQueryIs) {
  CreateParts();
  const SearchResult result = ValueOrDie(
      Search(Reranked({.method = RerankMethod::kBestPart, .weight = 1})));
  EXPECT_THAT(result.degraded_reasons, testing::IsEmpty());
  for (const SearchHit& hit : result.hits) {
    ASSERT_EQ(hit.stage_scores.size(), 2u);
    EXPECT_EQ(hit.stage_scores[0].stage, "coarse");
    EXPECT_EQ(hit.stage_scores[1].stage, "best_part");
    ASSERT_EQ(hit.evidence.size(), 1u);
    if (hit.item.id == "both") {
      // Half of it is what was asked for, and nothing less in the fine stage.
      EXPECT_LT(hit.stage_scores[0].score, 0.9F);
      EXPECT_GT(hit.stage_scores[1].score, 0.95F);
      EXPECT_FLOAT_EQ(hit.evidence[0].box->left, 0.5F);
    }
    if (hit.item.id == "video") {
      EXPECT_GT(hit.stage_scores[1].score, hit.stage_scores[0].score);
      EXPECT_DOUBLE_EQ(hit.evidence[0].span->start, 1);
      EXPECT_DOUBLE_EQ(hit.evidence[0].span->end, 1.5);
    }
  }
}

TEST_F(EngineTest, TheBestMethodIsTheTokensWhereTheModelHasThem) {
  models_.Put(MakeModel(
      "tokens", {"image.global", "image.dense", "text.global", "text.tokens"}));
  CreateParts("tokens");
  SearchQuery query = Reranked({});
  EXPECT_EQ(ValueOrDie(Search(query)).hits[0].stage_scores[1].stage,
            "late_interaction");
  query.parts.push_back({ImageInput{"red"}});
  EXPECT_EQ(ValueOrDie(Search(query)).hits[0].stage_scores[1].stage,
            "best_part");
  query.rerank->method = RerankMethod::kLateInteraction;
  const absl::Status status = Search(query).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(GetField(status), "rerank.method");
}

TEST_F(EngineTest, RefusesToRerankByWhatIsNotThere) {
  CreateParts();
  const auto refused = [&](RerankMethod method) {
    return Search(Reranked({.method = method})).status();
  };
  EXPECT_THAT(refused(RerankMethod::kLateInteraction),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("text.tokens")));
  EXPECT_THAT(
      refused(RerankMethod::kMatch),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("match")));
  const Engine alone({}, &embedder_, &models_, catalog_.get());
  RequestContext context(&clock_, "test");
  const SearchQuery remote = Reranked({.method = RerankMethod::kRemote});
  EXPECT_THAT(Await<absl::StatusOr<SearchResult>>([&](const auto& done) {
                alone.Search(context, remote, done);
              }),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("scoring.remote")));
  CreatePoints();
  SearchQuery points = Points({{EmbeddingInput{{1, 0}}}});
  points.rerank.emplace();
  EXPECT_THAT(Search(points), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("keeps no features")));
}

TEST_F(EngineTest, AScorerElsewhereReordersTheShortList) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{2, 1}}}});
  query.rerank = {.method = RerankMethod::kRemote, .weight = 1};
  const SearchResult result = ValueOrDie(Search(query));
  EXPECT_THAT(result.degraded_reasons, testing::IsEmpty());
  // Inner products: c 3, a 2, b 1; cosines: c, a, b.
  ASSERT_EQ(result.hits.size(), 3u);
  EXPECT_EQ(result.hits[0].item.id, "c");
  EXPECT_EQ(result.hits[0].stage_scores[1].stage, "remote");
  EXPECT_FLOAT_EQ(result.hits[0].stage_scores[1].score, 3);
  EXPECT_FLOAT_EQ(result.hits[2].stage_scores[1].score, 1);
  ASSERT_EQ(result.hits[0].evidence.size(), 1u);
  EXPECT_THAT(remote_.seen.query.embedding, ElementsAre(2, 1));
  EXPECT_EQ(remote_.seen.candidates[0].media, "");
}

TEST_F(EngineTest, AScorerElsewhereGetsWhatItNeeds) {
  CreateParts();
  remote_.score = 1;
  remote_.needs = {.grid = true, .text = true};
  const SearchResult result =
      ValueOrDie(Search(Reranked({.method = RerankMethod::kRemote})));
  EXPECT_THAT(result.degraded_reasons, testing::IsEmpty());
  EXPECT_EQ(remote_.seen.query.text, "blue");
  EXPECT_EQ(remote_.seen.model_name, "fake");
  ASSERT_EQ(remote_.seen.candidates.size(), 3u);
  for (const ScoreCandidate& candidate : remote_.seen.candidates) {
    EXPECT_TRUE(candidate.parts.has_value());
    EXPECT_TRUE(candidate.embedding.empty());
  }
}

TEST_F(EngineTest, AScorerThatFailsCostsTheFineScoresAlone) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{1, 2}}}});
  const std::vector<std::string> coarse = Ids(query);
  query.rerank = {.method = RerankMethod::kRemote, .weight = 1};
  remote_.failure = absl::DataLossError("scores[0].score is not finite");
  const SearchResult result = ValueOrDie(Search(query));
  EXPECT_THAT(
      result.degraded_reasons,
      ElementsAre(AllOf(HasSubstr("not finite"), HasSubstr("coarse search"))));
  ASSERT_EQ(result.hits.size(), 3u);
  for (size_t i = 0; i < coarse.size(); ++i) {
    EXPECT_EQ(result.hits[i].item.id, coarse[i]);
    EXPECT_EQ(result.hits[i].stage_scores.size(), 1u);
  }
}

TEST_F(EngineTest, AScorerThatReadsTextNeedsSome) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{1, 2}}}});
  query.rerank = {.method = RerankMethod::kRemote};
  remote_.needs = {.text = true};
  EXPECT_THAT(ValueOrDie(Search(query)).degraded_reasons,
              ElementsAre(HasSubstr("reads the query's text")));
}

TEST_F(EngineTest, AScorerGetsNoMoreThanItTakes) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{2, 1}}}});
  query.rerank = {.method = RerankMethod::kRemote};
  remote_.max_candidates = 2;
  const SearchResult result = ValueOrDie(Search(query));
  EXPECT_EQ(remote_.seen.candidates.size(), 2u);
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(AllOf(HasSubstr("of 3 candidates, 1 got no score"),
                                HasSubstr("takes 2"))));
  // The best two are those that it saw.
  EXPECT_EQ(result.hits[2].stage_scores.size(), 1u);
  // A short list that is shorter than that is scored whole.
  query.rerank->depth = 2;
  EXPECT_THAT(ValueOrDie(Search(query)).degraded_reasons, testing::IsEmpty());
}

TEST_F(EngineTest, GroupsAndPagesOfAScorersHitsComeFromOneList) {
  CreatePoints();
  SearchQuery query = Points({{EmbeddingInput{{2, 1}}}});
  query.rerank = {.method = RerankMethod::kRemote, .weight = 1};
  query.k = 2;
  const SearchResult first = ValueOrDie(Search(query));
  ASSERT_TRUE(first.has_more);
  query.offset = first.next_offset;
  query.after = first.last;
  query.page_state = first.page_state;
  const SearchResult second = ValueOrDie(Search(query));
  ASSERT_EQ(second.hits.size(), 1u);
  EXPECT_EQ(first.hits[0].item.id, "c");
  EXPECT_EQ(first.hits[1].item.id, "a");
  EXPECT_EQ(second.hits[0].item.id, "b");
}

TEST_F(EngineTest, GroupsAreLookedForAmongSoManyHitsOnly) {
  ValueOrDie(engine_.CreateCollection(Record("points", 2)));
  google::protobuf::Struct payload;
  (*payload.mutable_fields())["album"].set_string_value("holidays");
  std::vector<Item> items;
  for (int i = 0; i <= 100'000; ++i) {
    items.push_back(MakeItem(absl::StrCat(i), {1, 1}));
    items.back().payload = payload.SerializeAsString();
  }
  ASSERT_THAT(ValueOrDie(catalog_->Get("points"))->Upsert(items), IsOk());
  SearchQuery query = Points({{EmbeddingInput{{1, 0}}}});
  query.group_by = "album";
  const SearchResult result = ValueOrDie(Search(query));
  EXPECT_EQ(result.hits.size(), 1u);
  EXPECT_FALSE(result.has_more);
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("best 100000 items")));
}

TEST_F(EngineTest, TheMatchHeadLooksAtTheMedia) {
  models_.Put(MakeModel("match", {"image.global", "text.global", "match"}));
  v1::Collection wanted;
  wanted.set_name("parts");
  wanted.set_model("match");
  ValueOrDie(engine_.CreateCollection(wanted));
  const auto parts = ValueOrDie(catalog_->Get("parts"));
  const auto put = [&](const std::string& id, const std::string& file) {
    const std::string path = directory_.path() + "/" + id;
    std::ofstream(path) << file;
    ASSERT_THAT(
        Put(*parts,
            {.id = id, .content = ImageInput{"red"}, .media_uri = path}),
        IsOk());
  };
  // Indexed as red, all of them; the files say otherwise.
  put("blue", "blue");
  put("red", "red");
  put("gone", "red");
  std::filesystem::remove(directory_.path() + "/gone");
  ASSERT_THAT(Put(*parts, {.id = "homeless", .content = ImageInput{"red"}}),
              IsOk());
  const SearchResult result = ValueOrDie(
      Search(Reranked({.method = RerankMethod::kMatch, .weight = 1})));
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("of 4 candidates, 2 got no score")));
  std::map<std::string, float> match;
  for (const SearchHit& hit : result.hits) {
    if (hit.stage_scores.size() < 2) continue;
    EXPECT_EQ(hit.stage_scores[1].stage, "match");
    match[hit.item.id] = hit.stage_scores[1].score;
  }
  ASSERT_EQ(match.size(), 2u);
  EXPECT_GT(match["blue"], match["red"]);
  SearchQuery picture = Reranked({.method = RerankMethod::kMatch});
  picture.parts = {{ImageInput{"red"}}};
  EXPECT_EQ(GetField(Search(picture).status()), "rerank.method");
}

TEST_F(EngineTest, MediaFillNoMoreThanARequest) {
  models_.Put(MakeModel("match", {"image.global", "text.global", "match"}));
  v1::Collection wanted;
  wanted.set_name("parts");
  wanted.set_model("match");
  ValueOrDie(engine_.CreateCollection(wanted));
  const auto parts = ValueOrDie(catalog_->Get("parts"));
  for (const char* id : {"a", "b"}) {
    const std::string path = directory_.path() + "/" + id;
    std::ofstream(path) << "twelve bytes";  // max_media_bytes is 20.
    ASSERT_THAT(
        Put(*parts,
            {.id = id, .content = ImageInput{"red"}, .media_uri = path}),
        IsOk());
  }
  remote_.needs = {.media = true};
  remote_.score = 1;
  const SearchResult result =
      ValueOrDie(Search(Reranked({.method = RerankMethod::kRemote})));
  ASSERT_EQ(remote_.seen.candidates.size(), 1u);
  EXPECT_EQ(remote_.seen.candidates[0].media, "twelve bytes");
  EXPECT_THAT(result.degraded_reasons,
              ElementsAre(HasSubstr("a request of 20 bytes")));
}

TEST_F(EngineTest, RefusesADepthAndAWeightOutOfRange) {
  CreateParts();
  for (const int64_t depth : {int64_t{0}, int64_t{-1}, int64_t{10'001}}) {
    EXPECT_EQ(GetField(Search(Reranked({.depth = depth})).status()),
              "rerank.depth");
  }
  for (const float weight : {-0.1F, 1.1F, std::nanf("")}) {
    EXPECT_EQ(GetField(Search(Reranked({.weight = weight})).status()),
              "rerank.weight");
  }
}

TEST_F(EngineTest, ATextAmongThePicturesKeepsItsCoarseScore) {
  CreateParts();
  ASSERT_THAT(Put(*ValueOrDie(catalog_->Get("parts")),
                  {.id = "text", .content = TextInput{"blue"}}),
              IsOk());
  const SearchResult result = ValueOrDie(Search(Reranked({.weight = 1})));
  EXPECT_THAT(result.degraded_reasons, ElementsAre(HasSubstr("1 have no")));
  const SearchHit& text = result.hits.front();
  EXPECT_EQ(text.item.id, "text");
  ASSERT_EQ(text.stage_scores.size(), 1u);
  EXPECT_FLOAT_EQ(text.stage_scores[0].score, text.score);
  EXPECT_THAT(text.evidence, testing::IsEmpty());
}

TEST_F(EngineTest, PartsNeedAModelThatMakesThem) {
  models_.Put(MakeModel("plain", {"image.global", "text.global"}));
  v1::Collection wanted;
  wanted.set_name("parts");
  wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
  for (const char* model : {"plain", "none"}) {
    wanted.set_model(model);
    wanted.set_dimension(32);
    EXPECT_THAT(engine_.CreateCollection(wanted),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("image.dense")));
  }
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
  EXPECT_EQ(result.index_version, 3);  // One per item written.
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
