#include "client/cli/corpus_moments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;

TEST(CorpusRecallTest, TheVideoMustMatchAndTheThresholdHits) {
  const std::vector<CorpusMomentCase> cases = {
      {{0, 0, 10}, {{1, 0, 10}, {0, 0, 5}}},  // Second, IoU 0.5.
      {{1, 0, 10}, {{1, 3, 10}}},             // IoU 0.7.
      {{2, 0, 10}, {{1, 0, 10}}}};
  EXPECT_EQ(CorpusRecall(cases, 0.5F, 1), 33.33);
  EXPECT_EQ(CorpusRecall(cases, 0.5F, 5), 66.67);
  EXPECT_EQ(CorpusRecall(cases, 0.7F, 5), 33.33);
}

TEST(CorpusRecallTest, AnEmptyAnswerMisses) {
  EXPECT_EQ(CorpusRecall({{{0, 0, 10}, {}}}, 0.5F, 100), 0);
}

TEST(CorpusRecallTest, LooksAtTheFirstK) {
  CorpusMomentCase query = {{0, 0, 10}, std::vector<CorpusMoment>(100)};
  for (CorpusMoment& moment : query.predicted) moment = {0, 50, 60};
  query.predicted.push_back({0, 0, 10});
  EXPECT_EQ(CorpusRecall({query}, 0.5F, 100), 0);
  query.predicted[10] = {0, 0, 10};
  EXPECT_EQ(CorpusRecall({query}, 0.5F, 10), 0);
  EXPECT_EQ(CorpusRecall({query}, 0.5F, 100), 100);
}

TEST(ReadCorpusMomentsTest, NamesWhatCannotBeUsed) {
  const TempFolder folder;
  const auto error = [&](const std::string& truth, const std::string& text) {
    return std::string(ReadCorpusMoments(folder.Write("t.jsonl", truth),
                                         folder.Write("p.json", text), false)
                           .status()
                           .message());
  };
  const std::string truth = R"({"desc_id": 1, "vid_name": "a", "ts": [0, 10]})";
  EXPECT_THAT(error(R"({"desc_id": 1, "vid_name": "a", "ts": [0]})", "{}"),
              HasSubstr("line 1 \"ts\" is not start and end"));
  EXPECT_THAT(error(truth + "\n" + truth, "{}"),
              HasSubstr("line 2 repeats desc_id 1 of line 1"));
  EXPECT_THAT(error(truth, "[]"), HasSubstr("is no JSON object"));
  EXPECT_THAT(error(truth, "{}"), HasSubstr("has no object \"video2idx\""));
  EXPECT_THAT(error(truth, R"({"video2idx": {}})"),
              HasSubstr("has no list \"VCMR\""));
  EXPECT_THAT(
      error(truth, R"({"video2idx": {}, "VCMR": [{"desc_id": 1,)"
                   R"( "predictions": [[0, 1]]}]})"),
      HasSubstr("entry 1 of \"VCMR\" \"predictions\" has something else"));
  EXPECT_THAT(error(truth, R"({"video2idx": {}, "VCMR": [{"desc_id": 1,)"
                           R"( "predictions": []}]})"),
              HasSubstr("has no \"video2idx\" for a of desc_id 1"));
  EXPECT_THAT(error(truth, R"({"video2idx": {"a": 0}, "VCMR": []})"),
              HasSubstr("no prediction for 1 of 1 queries (desc_id 1)"));
}

}  // namespace
}  // namespace quern::cli
