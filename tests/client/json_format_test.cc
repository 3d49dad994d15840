#include "client/cli/json_format.h"

#include "nlohmann/json.hpp"
#include <gtest/gtest.h>

#include "client/cli/text.h"

namespace quern::cli {
namespace {

TEST(JsonFormatTest, PayloadsSurviveTheRoundTrip) {
  const std::string text =
      R"({"a":1,"b":1.5,"c":"x","d":[1,null,true],"e":{"f":"g"}})";
  const auto payload = ParsePayload(text);
  ASSERT_TRUE(payload.ok()) << payload.status();
  EXPECT_EQ(ToJson(*payload).dump(), text);
}

TEST(JsonFormatTest, HitsHaveRankIdScoreAndPayload) {
  v1::Hit hit;
  hit.mutable_item()->set_id("a.jpg");
  hit.set_score(.1F);
  (*hit.mutable_item()->mutable_payload()->mutable_fields())["n"]
      .set_number_value(3);
  EXPECT_EQ(ToJson(hit, 2).dump(),
            R"({"rank":2,"id":"a.jpg","score":0.1,"payload":{"n":3}})");
}

TEST(JsonFormatTest, StagesAreInMilliseconds) {
  v1::SearchReport report;
  auto* stage = report.add_stages();
  stage->set_stage("encode");
  stage->mutable_duration()->set_seconds(1);
  stage->mutable_duration()->set_nanos(2'500'000);
  EXPECT_EQ(ToJson(report)["stages_ms"]["encode"], 1002.5);
}

TEST(JsonFormatTest, OutputIsAlwaysUtf8) {
  const Json json = {{"broken", "a\xff"}};
  EXPECT_TRUE(IsValidUtf8(Dump(json)));
}

TEST(JsonFormatTest, SummariesAreShort) {
  const auto payload = ParsePayload(R"({"s":"text","l":[1,"a"]})");
  EXPECT_EQ(Summary(payload->fields().at("s")), "text");
  EXPECT_EQ(Summary(payload->fields().at("l")), R"([1,"a"])");
}

}  // namespace
}  // namespace quern::cli
