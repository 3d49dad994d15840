// quern.v1.Scoring as it is served, and as it is asked by a server in front.

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "quern/v1/scoring.grpc.pb.h"
#include "tests/server/server_fixture.h"
#include "tests/support/scoring_server.h"

namespace quern {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ScoringTest : public ServerTest {
 protected:
  grpc::Status Score(const v1::ScoreRequest& request,
                     v1::ScoreResponse* response) {
    return Call(v1::Scoring::NewStub(channel_), &v1::Scoring::Stub::Score,
                request, response);
  }

  static v1::ScoreRequest TwoCandidates() {
    v1::ScoreRequest request;
    for (const float value : {3.0F, 4.0F}) {
      request.mutable_query()->mutable_embedding()->add_values(value);
    }
    for (const char* id : {"along", "across"}) {
      v1::ScoringCandidate& candidate = *request.add_candidates();
      candidate.set_id(id);
      const bool is_along = candidate.id() == "along";
      candidate.mutable_embedding()->add_values(is_along ? 30 : -4);
      candidate.mutable_embedding()->add_values(is_along ? 40 : 3);
    }
    return request;
  }

  // A front with these scorers, and a collection of three texts in it.
  void StartFront(const std::vector<std::string>& scorers) {
    for (const std::string& scorer : scorers) {
      config_.mutable_scoring()->add_remote(scorer);
    }
    StartServer();
    ASSERT_TRUE(Create("c").ok());
    grpc::Status status;
    Upsert({TextItem("c", "1", "red"), TextItem("c", "2", "red blue"),
            TextItem("c", "3", "blue")},
           &status);
    ASSERT_TRUE(status.ok());
  }

  grpc::Status SearchRemote(v1::SearchResponse* response) {
    v1::SearchRequest request = TextSearch("c", "red");
    request.mutable_rerank()->set_method(v1::Rerank::METHOD_REMOTE);
    request.mutable_rerank()->set_weight(1);
    return Search(request, response);
  }

  static std::vector<std::string> Ids(const v1::SearchResponse& response) {
    std::vector<std::string> ids;
    for (const v1::Hit& hit : response.hits()) ids.push_back(hit.item().id());
    return ids;
  }
};

TEST_F(ScoringTest, ScoresByTheEmbeddings) {
  StartServer();
  v1::ScoreResponse response;
  const grpc::Status status = Score(TwoCandidates(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.scores_size(), 2);
  EXPECT_EQ(response.scores(0).id(), "along");
  EXPECT_FLOAT_EQ(response.scores(0).score(), 1);
  EXPECT_NEAR(response.scores(1).score(), 0, 1e-6);
  EXPECT_THAT(response.scorer(), HasSubstr("quern"));
}

TEST_F(ScoringTest, AScorerServesNothingElse) {
  config_.mutable_server()->set_role(v1::ServerConfig::ROLE_SCORER);
  config_.mutable_storage()->set_path("/proc/no/folder/can/be/here");
  StartServer();
  v1::ScoreResponse response;
  EXPECT_TRUE(Score(TwoCandidates(), &response).ok());
  v1::ScorerDescription description;
  ASSERT_TRUE(Call(v1::Scoring::NewStub(channel_), &v1::Scoring::Stub::Describe,
                   v1::DescribeScorerRequest(), &description)
                  .ok());
  EXPECT_EQ(description.name(), "quern");
  EXPECT_THAT(description.tasks(),
              ElementsAre(v1::SCORING_TASK_RERANK, v1::SCORING_TASK_REGIONS,
                          v1::SCORING_TASK_SEGMENTS));
  EXPECT_THAT(description.model_fingerprints(), IsEmpty());
  v1::SearchResponse found;
  EXPECT_EQ(Search(TextSearch("c", "red"), &found).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(ScrapeMetrics(), AllOf(HasSubstr("quern_calls_in_flight"),
                                     HasSubstr("quern_model_memory_bytes")));
}

TEST_F(ScoringTest, NamesTheFieldThatIsWrong) {
  StartServer();
  v1::ScoreRequest request = TwoCandidates();
  request.mutable_candidates(1)->mutable_embedding()->set_values(
      0, std::numeric_limits<float>::quiet_NaN());
  v1::ScoreResponse response;
  const grpc::Status status = Score(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()), "candidates[1].embedding");
  request = TwoCandidates();
  request.mutable_query()->clear_embedding();
  EXPECT_EQ(ViolatedField(Score(request, &response).error_details()),
            "query.embedding");
}

TEST_F(ScoringTest, ACandidateThatLacksSomethingFailsAlone) {
  StartServer();
  v1::ScoreRequest request = TwoCandidates();
  request.set_task(v1::SCORING_TASK_REGIONS);
  v1::QuantizedMatrix& grid = *request.mutable_candidates(0)->mutable_grid();
  grid.set_rows(4);
  grid.set_columns(2);
  grid.set_values(std::string("\x7f\0\x7f\0\0\x7f\x7f\0", 8));
  for (int i = 0; i < 4; ++i) grid.add_scales(1 / 127.0F);
  request.mutable_candidates(0)->set_grid_height(2);
  request.mutable_candidates(0)->set_grid_width(2);
  v1::ScoreResponse response;
  ASSERT_TRUE(Score(request, &response).ok());
  EXPECT_EQ(response.scores(0).status().code(), 0);
  ASSERT_EQ(response.scores(0).evidence_size(), 1);
  EXPECT_TRUE(response.scores(0).evidence(0).has_box());
  EXPECT_EQ(response.scores(1).status().code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(response.scores(1).status().message(), HasSubstr("grid"));
}

TEST_F(ScoringTest, AFrontAsksItsScorer) {
  ScoringServer scorer([](grpc::ServerContext*, const v1::ScoreRequest& request,
                          v1::ScoreResponse* response) {
    for (const v1::ScoringCandidate& candidate : request.candidates()) {
      v1::CandidateScore& score = *response->add_scores();
      score.set_id(candidate.id());
      score.set_score(candidate.id() == "3" ? 9 : 1);
      score.set_probability(0.5F);
    }
    return grpc::Status::OK;
  });
  StartFront({scorer.address()});
  v1::SearchResponse response;
  const grpc::Status status = SearchRemote(&response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.report().degraded());
  EXPECT_EQ(response.hits(0).item().id(), "3");
  EXPECT_EQ(response.hits(0).probability(), 0.5F);
  EXPECT_EQ(response.hits(0).stage_scores(1).stage(), "remote");
  EXPECT_EQ(response.hits(0).stage_scores(1).score(), 9);
  const std::string endpoint =
      absl::StrCat("endpoint=\"", scorer.address(), "\"");
  EXPECT_THAT(ScrapeMetrics(),
              AllOf(HasSubstr(absl::StrCat("quern_scorer_breaker_state{",
                                           endpoint, "} 0")),
                    HasSubstr(absl::StrCat("quern_scorer_seconds_count{",
                                           endpoint, "} 1")),
                    HasSubstr("quern_scoring_queue_depth 0")));
}

// Whatever a scorer does, a search gives the coarse hits and says why, and the
// metrics say what.
TEST_F(ScoringTest, WhatAScorerDoesWrongIsTheReasonAndNothingElse) {
  ScoringServer scorer(ScoringServer::Good(1));
  config_.mutable_scoring()->mutable_timeout()->set_seconds(2);
  StartFront({scorer.address()});
  v1::SearchResponse coarse;
  ASSERT_TRUE(Search(TextSearch("c", "red"), &coarse).ok());
  v1::SearchResponse response;
  ASSERT_TRUE(SearchRemote(&response).ok());
  EXPECT_FALSE(response.report().degraded());
  struct Case {
    ScoringServer::Answer answer;
    std::string reason;
    std::string code;
  };
  const std::vector<Case> cases = {
      {ScoringServer::Spoilt([](v1::ScoreResponse* r) {
         r->mutable_scores(0)->set_score(std::nanf(""));
       }),
       "scores[0].score is not finite", "DATA_LOSS"},
      {ScoringServer::Spoilt(
           [](v1::ScoreResponse* r) { r->mutable_scores()->RemoveLast(); }),
       "scores has 2 entries for 3 candidates", "DATA_LOSS"},
      {ScoringServer::Failure(grpc::StatusCode::UNIMPLEMENTED, "what?"),
       "what?", "UNIMPLEMENTED"},
      {scorer.Silence(), "no answer in time", "DEADLINE_EXCEEDED"},
      {ScoringServer::Spoilt([](v1::ScoreResponse* r) {
         r->set_scorer(std::string(70 << 20, 'x'));  // 64 MiB is the limit.
       }),
       "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"}};
  for (const Case& one : cases) {
    scorer.SetAnswer(one.answer);
    response.Clear();
    const grpc::Status status = SearchRemote(&response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(Ids(response), Ids(coarse));
    EXPECT_TRUE(response.report().degraded());
    ASSERT_EQ(response.report().degraded_reasons_size(), 1);
    if (one.code != "DEADLINE_EXCEEDED") {
      EXPECT_THAT(response.report().degraded_reasons(0),
                  AllOf(HasSubstr(one.reason), HasSubstr(scorer.address())));
    }
    EXPECT_THAT(ScrapeMetrics(),
                HasSubstr(absl::StrCat("code=\"", one.code, "\",endpoint=\"",
                                       scorer.address())));
    // Its circuit closes again.
    scorer.SetAnswer(ScoringServer::Good(1));
    for (bool is_well = false; !is_well;) {
      ASSERT_TRUE(SearchRemote(&response).ok());
      is_well = !response.report().degraded();
    }
  }
}

TEST_F(ScoringTest, AFrontWithoutItsScorerGivesTheCoarseHits) {
  ScoringServer scorer(ScoringServer::Good(1));
  scorer.Stop();
  StartFront({scorer.address()});
  v1::SearchResponse response;
  ASSERT_TRUE(SearchRemote(&response).ok());
  EXPECT_EQ(response.hits_size(), 3);
  EXPECT_THAT(response.report().degraded_reasons(),
              ElementsAre(AllOf(HasSubstr("no scorer is up"),
                                HasSubstr(scorer.address()))));
  EXPECT_THAT(ScrapeMetrics(),
              HasSubstr(absl::StrCat("quern_scorer_breaker_state{endpoint=\"",
                                     scorer.address(), "\"} 2")));
}

TEST_F(ScoringTest, WithoutScorersRemoteIsRefusedWithTheCure) {
  StartFront({});
  v1::SearchResponse response;
  const grpc::Status status = SearchRemote(&response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("scoring.remote"));
}

}  // namespace
}  // namespace quern
