#include "engine/fine/scoring_codec.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using ::testing::ElementsAre;

constexpr ScoreNeeds kEverything{.embedding = true,
                                 .grid = true,
                                 .frames = true,
                                 .tokens = true,
                                 .media = true,
                                 .text = true};

ScoreRequest FullRequest() {
  ScoreRequest request;
  request.task = ScoreTask::kSegments;
  request.query.text = "ein Hund \xf0\x9f\x90\xb6";
  request.query.embedding = {0.5F, -2};
  request.query.tokens = {
      .rows = 1, .columns = 2, .values = {-127, 127}, .scales = {0.5F}};
  PartFeatures grid;
  grid.shape = {.grid_height = 1, .grid_width = 2};
  grid.features = {
      .rows = 2, .columns = 2, .values = {1, 2, 3, 4}, .scales = {1, 0}};
  PartFeatures video;
  video.shape = {.frames = 3, .duration = absl::Seconds(10)};
  video.times = {absl::Seconds(1), absl::Milliseconds(3500), absl::Seconds(6)};
  video.samples = {1, 1, 2};
  video.features = {.rows = 3,
                    .columns = 2,
                    .values = {1, 2, 3, 4, 5, 6},
                    .scales = {1, 2, 3}};
  request.candidates = {{.id = "grid", .embedding = {1, 2}, .parts = grid},
                        {.id = "video", .embedding = {}, .parts = video},
                        {.id = "bare"}};
  request.model_name = "m";
  request.model_version = "2";
  request.model_fingerprint = "abc";
  request.max_evidence = 7;
  request.nms_iou = 0.25;
  return request;
}

TEST(ScoringCodecTest, ARequestComesBackAsItWas) {
  const ScoreRequest sent = FullRequest();
  const ScoreRequest got =
      ValueOrDie(DecodeScoreRequest(EncodeScoreRequest(sent, kEverything)));
  EXPECT_EQ(got.task, sent.task);
  EXPECT_EQ(got.query.text, sent.query.text);
  EXPECT_EQ(got.query.embedding, sent.query.embedding);
  EXPECT_EQ(got.query.tokens.values, sent.query.tokens.values);
  EXPECT_EQ(got.query.tokens.scales, sent.query.tokens.scales);
  EXPECT_EQ(got.model_fingerprint, sent.model_fingerprint);
  EXPECT_EQ(got.max_evidence, 7);
  EXPECT_EQ(got.nms_iou, 0.25);
  ASSERT_EQ(got.candidates.size(), 3u);
  const PartFeatures& grid = *got.candidates[0].parts;
  EXPECT_EQ(got.candidates[0].embedding, (std::vector<float>{1, 2}));
  EXPECT_EQ(grid.shape.grid_width, 2);
  EXPECT_THAT(grid.features.values, ElementsAre(1, 2, 3, 4));
  const PartFeatures& video = *got.candidates[1].parts;
  EXPECT_EQ(video.shape.frames, 3);
  EXPECT_EQ(video.shape.duration, absl::Seconds(10));
  EXPECT_EQ(video.times, sent.candidates[1].parts->times);
  // The last is shown for four seconds, the others for two and a half.
  EXPECT_THAT(video.samples, ElementsAre(1, 1, 2));
  EXPECT_FALSE(got.candidates[2].parts.has_value());
}

TEST(ScoringCodecTest, OnlyWhatIsNeededIsSent) {
  const v1::ScoreRequest message =
      EncodeScoreRequest(FullRequest(), {.grid = true});
  EXPECT_EQ(message.query().text(), "");
  EXPECT_FALSE(message.query().has_embedding());
  EXPECT_FALSE(message.query().has_tokens());
  EXPECT_FALSE(message.candidates(0).has_embedding());
  EXPECT_TRUE(message.candidates(0).has_grid());
  EXPECT_FALSE(message.candidates(1).has_frames());
  EXPECT_EQ(message.candidates(1).duration().seconds(), 10);
}

TEST(ScoringCodecTest, NamesTheFieldThatIsWrong) {
  using Change = std::function<void(v1::ScoreRequest&)>;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct Case {
    std::string field;
    Change change;
  };
  const std::vector<Case> cases = {
      {"task", [](auto& r) { r.set_task(static_cast<v1::ScoringTask>(9)); }},
      {"candidates", [](auto& r) { r.clear_candidates(); }},
      {"candidates",
       [](auto& r) {
         while (r.candidates_size() <= 10'000) r.add_candidates()->set_id("x");
       }},
      {"candidates[2].id",
       [](auto& r) { r.mutable_candidates(2)->clear_id(); }},
      {"candidates[2].id",
       [](auto& r) { r.mutable_candidates(2)->set_id(std::string(513, 'x')); }},
      {"max_evidence", [](auto& r) { r.set_max_evidence(0); }},
      {"max_evidence", [](auto& r) { r.set_max_evidence(101); }},
      {"nms_iou", [](auto& r) { r.set_nms_iou(0); }},
      {"nms_iou", [=](auto& r) { r.set_nms_iou(nan); }},
      {"query.text",
       [](auto& r) { r.mutable_query()->set_text(std::string(65'537, 'x')); }},
      {"query.embedding",
       [=](auto& r) {
         r.mutable_query()->mutable_embedding()->set_values(0, nan);
       }},
      {"query.embedding",
       [](auto& r) { r.mutable_query()->mutable_embedding()->clear_values(); }},
      {"query.embedding",
       [](auto& r) {
         auto& values =
             *r.mutable_query()->mutable_embedding()->mutable_values();
         values.Set(0, 0);
         values.Set(1, 0);
       }},
      {"query.tokens",
       [](auto& r) { r.mutable_query()->mutable_embedding()->add_values(1); }},
      {"candidates[0].embedding",
       [](auto& r) {
         r.mutable_candidates(0)->mutable_embedding()->add_values(1);
       }},
      {"candidates[0].grid",
       [](auto& r) { r.mutable_candidates(0)->set_grid_height(2); }},
      {"candidates[0].grid",
       [](auto& r) {
         r.mutable_candidates(0)->set_grid_height(-1);
         r.mutable_candidates(0)->set_grid_width(-2);
       }},
      {"candidates[0].grid.values",
       [](auto& r) {
         r.mutable_candidates(0)->mutable_grid()->mutable_values()->pop_back();
       }},
      {"candidates[0].grid.values",
       [](auto& r) {
         (*r.mutable_candidates(0)->mutable_grid()->mutable_values())[0] =
             '\x80';
       }},
      {"candidates[0].grid.rows",
       [](auto& r) {
         r.mutable_candidates(0)->mutable_grid()->set_rows(1 << 30);
       }},
      {"candidates[0].grid.columns",
       [](auto& r) {
         r.mutable_candidates(0)->mutable_grid()->set_columns(0);
       }},
      {"candidates[0].grid.scales",
       [](auto& r) {
         r.mutable_candidates(0)
             ->mutable_grid()
             ->mutable_scales()
             ->RemoveLast();
       }},
      {"candidates[0].grid.scales",
       [](auto& r) {
         r.mutable_candidates(0)->mutable_grid()->set_scales(0, -1);
       }},
      {"candidates[1].frames",
       [](auto& r) {
         *r.mutable_candidates(1)->mutable_grid() = r.candidates(0).grid();
       }},
      {"candidates[1].frame_times",
       [](auto& r) {
         r.mutable_candidates(1)->mutable_frame_times()->RemoveLast();
       }},
      {"candidates[1].frame_times[1]",
       [](auto& r) {
         r.mutable_candidates(1)->mutable_frame_times(1)->set_seconds(0);
       }},
      {"candidates[1].frame_times[0]",
       [](auto& r) {
         r.mutable_candidates(1)->mutable_frame_times(0)->set_seconds(-1);
       }},
      {"candidates[1].duration",
       [](auto& r) {
         r.mutable_candidates(1)->mutable_duration()->set_nanos(-1);
       }},
  };
  for (const Case& one : cases) {
    v1::ScoreRequest message = EncodeScoreRequest(FullRequest(), kEverything);
    one.change(message);
    const absl::Status status = DecodeScoreRequest(message).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(GetField(status), one.field) << status;
  }
}

TEST(ScoringCodecTest, ScoresComeBackAsTheyWere) {
  const ScoreRequest request = FullRequest();
  std::vector<CandidateScore> sent(3);
  sent[0].score = -1.5F;
  sent[0].probability = 1;
  sent[0].evidence = {{.box = Box{.left = 0.25F, .right = 1}, .score = 2}};
  sent[1].evidence = {{.span = TimeSpan{.start = 0.5, .end = 10},
                       .score = 3,
                       .probability = 0.5F}};
  sent[2].status = InvalidField("grid", "is missing");
  v1::ScoreResponse message;
  EncodeScores(request, sent, {.name = "s", .version = "1"}, &message);
  EXPECT_EQ(message.scorer(), "s 1");
  const auto got = ValueOrDie(DecodeScores(request, message));
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].score, -1.5F);
  EXPECT_EQ(got[0].probability, 1);
  EXPECT_EQ(got[0].evidence[0].box->left, 0.25F);
  EXPECT_FALSE(got[0].evidence[0].probability.has_value());
  EXPECT_EQ(got[1].evidence[0].span->end, 10);
  EXPECT_EQ(got[1].evidence[0].probability, 0.5F);
  EXPECT_THAT(got[2].status, StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ScoringCodecTest, ADescriptionComesBackAsItWas) {
  const ScorerInfo sent{.name = "s",
                        .version = "1",
                        .tasks = {ScoreTask::kRerank, ScoreTask::kSegments},
                        .needs = {.frames = true, .text = true},
                        .model_fingerprints = {"abc"},
                        .max_candidates = 5};
  v1::ScorerDescription message;
  EncodeScorerInfo(sent, &message);
  const ScorerInfo got = ValueOrDie(DecodeScorerInfo(message));
  EXPECT_EQ(got.tasks, sent.tasks);
  EXPECT_TRUE(got.needs.frames && got.needs.text);
  EXPECT_FALSE(got.needs.grid || got.needs.media || got.needs.embedding);
  EXPECT_EQ(got.model_fingerprints, sent.model_fingerprints);
  EXPECT_EQ(got.max_candidates, 5);
  message.set_max_candidates(-1);
  EXPECT_THAT(DecodeScorerInfo(message), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace quern
