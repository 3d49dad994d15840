#include "client/cli/eval_rerank.h"

#include <string>

#include "gtest/gtest.h"

namespace quern::cli {
namespace {

void AddHit(const std::string& id, float coarse, float score,
            v1::SearchResponse& response) {
  v1::Hit& hit = *response.add_hits();
  hit.mutable_item()->set_id(id);
  hit.set_score(score);
  v1::StageScore& stage = *hit.add_stage_scores();
  stage.set_stage("coarse");
  stage.set_score(coarse);
}

TEST(EvalRerankTest, RanksByTheCoarseAndByTheFinalScore) {
  v1::SearchResponse response;
  AddHit("a", 0.2F, 0.9F, response);
  AddHit("b", 0.5F, 0.8F, response);
  AddHit("c", 0.6F, 0.7F, response);
  EXPECT_EQ(RanksOf("a", response).coarse, 3);
  EXPECT_EQ(RanksOf("a", response).reranked, 1);
  EXPECT_EQ(RanksOf("c", response).coarse, 1);
  EXPECT_EQ(RanksOf("c", response).reranked, 3);
}

TEST(EvalRerankTest, TiesCountAgainstTheQuery) {
  v1::SearchResponse response;
  AddHit("a", 0.5F, 0.5F, response);
  AddHit("b", 0.5F, 0.5F, response);
  for (const char* id : {"a", "b"}) {
    EXPECT_EQ(RanksOf(id, response).coarse, 2);
    EXPECT_EQ(RanksOf(id, response).reranked, 2);
  }
}

TEST(EvalRerankTest, WhatIsNotAmongTheHitsRanksLast) {
  v1::SearchResponse response;
  AddHit("a", 0.5F, 0.5F, response);
  response.mutable_report()->set_item_count(1000);
  EXPECT_EQ(RanksOf("b", response).coarse, 1000);
  EXPECT_EQ(RanksOf("b", response).reranked, 1000);
}

TEST(EvalRerankTest, AHitWithoutStagesCountsByItsScore) {
  v1::SearchResponse response;
  response.add_hits()->mutable_item()->set_id("a");
  response.mutable_hits(0)->set_score(0.5F);
  EXPECT_EQ(RanksOf("a", response).coarse, 1);
}

TEST(FineOptionsTest, SayWhatTheContractSays) {
  v1::Collection collection;
  SetParts({}, collection);
  SetParts({.grid = "off"}, collection);
  EXPECT_FALSE(collection.has_parts());
  SetParts({.grid = "14x14"}, collection);
  EXPECT_EQ(collection.parts().dense(), v1::PartsConfig::DENSE_14X14);
  EXPECT_EQ(collection.parts().encoding(),
            v1::PartsConfig::ENCODING_UNSPECIFIED);
  SetParts({.grid = "7x7", .encoding = "compressed"}, collection);
  EXPECT_EQ(collection.parts().dense(), v1::PartsConfig::DENSE_7X7);
  EXPECT_EQ(collection.parts().encoding(),
            v1::PartsConfig::ENCODING_COMPRESSED);
  EXPECT_FALSE(collection.parts().searchable());
  SetParts({.grid = "7x7", .searchable = true}, collection);
  EXPECT_TRUE(collection.parts().searchable());

  v1::SearchRequest request;
  SetRerank({}, request);
  EXPECT_FALSE(request.has_rerank());
  SetRerank({.method = "best-part", .depth = 7, .weight = 0.0F}, request);
  EXPECT_EQ(request.rerank().method(), v1::Rerank::METHOD_BEST_PART);
  EXPECT_EQ(request.rerank().depth(), 7);
  EXPECT_TRUE(request.rerank().has_weight());
  v1::SearchRequest plain;
  SetRerank({.method = "best"}, plain);
  EXPECT_TRUE(plain.has_rerank());
  EXPECT_FALSE(plain.rerank().has_depth());
}

}  // namespace
}  // namespace quern::cli
