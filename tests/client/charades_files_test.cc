#include "client/cli/charades_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

class CharadesFilesTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<CharadesQuery>> Read(const std::string& text) {
    return ReadCharades(folder_.Write("truth.txt", text));
  }
  absl::StatusOr<std::vector<SingleMomentCase>> Match(
      const std::string& truth, const std::string& predictions,
      bool allow_missing = false) {
    return ReadCharadesPredictions(folder_.Write("p.jsonl", predictions),
                                   *Read(truth), allow_missing);
  }

  TempFolder folder_;
};

TEST_F(CharadesFilesTest, ReadsLines) {
  const auto queries = Read("AO8RW 0.0 6.9##a person ## sits.\r\n\nX 1 2##y");
  ASSERT_TRUE(queries.ok()) << queries.status();
  ASSERT_THAT(*queries, SizeIs(2));
  EXPECT_EQ((*queries)[0].vid, "AO8RW");
  EXPECT_EQ((*queries)[0].moment.end, 6.9);
  EXPECT_EQ((*queries)[0].sentence, "a person ## sits.");
}

TEST_F(CharadesFilesTest, NamesTheLinesThatCannotBeUsed) {
  const auto error = [this](const std::string& text) {
    return std::string(Read(text).status().message());
  };
  EXPECT_THAT(error("a 1 2##b\na 1 2 b"), HasSubstr("line 2 has no ##"));
  EXPECT_THAT(error("a 1##b"), HasSubstr("does not begin with video, start"));
  EXPECT_THAT(error("a 1 nan##b"), HasSubstr("does not begin with video"));
  EXPECT_THAT(error("a 1 2## "), HasSubstr("has no sentence"));
  EXPECT_THAT(error("a 1 2##\xff"), HasSubstr("is not UTF-8"));
  EXPECT_THAT(error("\n"), HasSubstr("is empty"));
}

TEST_F(CharadesFilesTest, APredictionAnswersEveryLineOfItsSentence) {
  const auto cases = Match(
      "a 0 1##sits\na 5 6##sits\na 0 1##stands",
      R"({"vid": "a", "query": "sits", "pred_relevant_windows": [[0, 2], [5, 6]]})"
      "\n"
      R"({"vid": "a", "query": " stands ", "pred_relevant_windows": []})");
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_THAT(*cases, SizeIs(3));
  EXPECT_EQ((*cases)[1].truth.start, 5);
  EXPECT_EQ((*cases)[1].predicted->end, 2);
  EXPECT_FALSE((*cases)[2].predicted.has_value());
}

TEST_F(CharadesFilesTest, NamesQueriesWithoutAPrediction) {
  const std::string truth = "a 0 1##sits\nb 0 1##sits";
  const std::string prediction =
      R"({"vid": "a", "query": "sits", "pred_relevant_windows": [[0, 2]]})";
  EXPECT_THAT(Match(truth, prediction).status().message(),
              HasSubstr("no prediction for 1 of 2 queries (query b \"sits\")"));
  EXPECT_THAT(*Match(truth, prediction, /*allow_missing=*/true), SizeIs(1));
  EXPECT_THAT(Match(truth, prediction + "\n" + prediction).status().message(),
              HasSubstr("line 2 repeats a \"sits\""));
}

}  // namespace
}  // namespace quern::cli
