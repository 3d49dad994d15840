#include "client/cli/moment_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kQuery[] =
    R"({"qid": 7, "vid": "a", "query": "a dog", "duration": 7.9,)"
    R"( "relevant_windows": [[0, 2], [4, 6.5]], "relevant_clip_ids": [2, 0],)"
    R"( "saliency_scores": [[4, 3, 2], [1, 0, 1]]})";

class MomentFilesTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<MomentTruth>> Truth(const std::string& text) {
    return ReadMomentTruth(folder_.Write("truth.jsonl", text));
  }
  absl::StatusOr<std::vector<MomentPrediction>> Predictions(
      const std::string& text) {
    return ReadMomentPredictions(folder_.Write("predictions.jsonl", text));
  }
  std::string TruthError(const std::string& text) {
    return std::string(Truth(text).status().message());
  }
  std::string PredictionError(const std::string& text) {
    return std::string(Predictions(text).status().message());
  }
  // Of these files, which can be read.
  absl::StatusOr<MomentTestSet> Match(const std::string& truth,
                                      const std::string& predictions,
                                      bool allow_missing = false) {
    return MatchMoments(*Truth(truth), *Predictions(predictions),
                        allow_missing);
  }

  TempFolder folder_;
};

TEST_F(MomentFilesTest, ReadsAnnotations) {
  const auto truth = Truth(kQuery);
  ASSERT_TRUE(truth.ok()) << truth.status();
  ASSERT_THAT(*truth, SizeIs(1));
  const MomentTruth& query = truth->front();
  EXPECT_EQ(query.qid, "7");
  EXPECT_EQ(query.vid, "a");
  EXPECT_EQ(query.query, "a dog");
  EXPECT_EQ(query.windows[1].start, 4);
  EXPECT_EQ(query.windows[1].end, 6.5);
  // 7.9 s are three whole clips; clip 1 is not relevant.
  ASSERT_TRUE(query.saliency.has_value());
  EXPECT_THAT(*query.saliency,
              ElementsAre(ElementsAre(1, 0, 1), ElementsAre(0, 0, 0),
                          ElementsAre(4, 3, 2)));
}

TEST_F(MomentFilesTest, NamesTheLinesThatCannotBeUsed) {
  EXPECT_THAT(TruthError(std::string(kQuery) + "\n\n[1]\n{\"qid\": 1"),
              HasSubstr("line 3 is not a JSON object; line 4 is not a JSON"));
  EXPECT_THAT(TruthError("{}"), HasSubstr("line 1 has no \"qid\""));
  EXPECT_THAT(TruthError(R"({"qid": 1.5})"), HasSubstr("\"qid\" is not a who"));
  EXPECT_THAT(TruthError(R"({"qid": 1, "relevant_windows": []})"),
              HasSubstr("\"relevant_windows\" is empty"));
  EXPECT_THAT(TruthError(R"({"qid": 1, "relevant_windows": [[1, 2], [3]]})"),
              HasSubstr("something else than 2 numbers at place 2"));
  EXPECT_THAT(TruthError(R"({"qid": 1, "relevant_windows": [["1", 2]]})"),
              HasSubstr("at place 1"));
  EXPECT_THAT(TruthError("\n"), HasSubstr("is empty"));
}

TEST_F(MomentFilesTest, NamesWhatIsWrongWithSaliency) {
  const auto line = [](const std::string& duration, const std::string& clips,
                       const std::string& scores) {
    return R"({"qid": 1, "duration": )" + duration +
           R"(, "relevant_clip_ids": )" + clips + R"(, "saliency_scores": )" +
           scores + "}";
  };
  EXPECT_TRUE(Truth(line("8", "[3]", "[[1, 1, 1]]")).ok());
  EXPECT_THAT(TruthError(line("8", "[4]", "[[1, 1, 1]]")),
              HasSubstr("names clip 4 in \"relevant_clip_ids\"; the video has "
                        "clips 0 to 3"));
  EXPECT_THAT(TruthError(line("8", "[-1]", "[[1, 1, 1]]")),
              HasSubstr("names clip -1"));
  EXPECT_THAT(TruthError(line("8", "[1]", "[[1, 1]]")),
              HasSubstr("something else than 3 numbers"));
  EXPECT_THAT(TruthError(line("8", "[1, 2]", "[[1, 1, 1]]")),
              HasSubstr("has 2 \"relevant_clip_ids\" but 1"));
  EXPECT_THAT(TruthError(line("1.9", "[]", "[]")), HasSubstr("is 1.9"));
  EXPECT_THAT(TruthError(line("1e18", "[]", "[]")), HasSubstr("86400"));
}

TEST_F(MomentFilesTest, NamesQueriesSaidTwice) {
  EXPECT_THAT(TruthError("{\"qid\": 1}\n{\"qid\": \"1\"}\n{\"qid\": 1}"),
              HasSubstr("line 3 repeats qid 1 of line 1"));
}

TEST_F(MomentFilesTest, NamesPredictionsThatCannotBeUsed) {
  EXPECT_THAT(
      PredictionError(R"({"qid": 1, "pred_relevant_windows": [[1, 2]]})"),
      HasSubstr("something else than 3 or more numbers at place 1"));
  EXPECT_THAT(PredictionError(R"({"qid": 1, "pred_saliency_scores": []})"),
              HasSubstr("\"pred_saliency_scores\" is empty"));
  EXPECT_THAT(PredictionError(R"({"qid": 1, "pred_saliency_scores": [NaN]})"),
              HasSubstr("line 1 is not a JSON object"));
  EXPECT_THAT(PredictionError(R"({"qid": 1, "pred_saliency_scores": [null]})"),
              HasSubstr("is not a list of numbers"));
  EXPECT_THAT(PredictionError(std::string(100'000, '[')),
              HasSubstr("line 1 is not a JSON object"));
  EXPECT_EQ(ReadMomentPredictions(folder_.path() / "none").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(MomentFilesTest, MatchesQueriesInOrderOfThePredictions) {
  const auto set =
      Match(R"({"qid": 1, "relevant_windows": [[0, 1]]})"
            "\n"
            R"({"qid": "x", "relevant_windows": [[0, 2]]})",
            R"({"qid": "x", "pred_relevant_windows": [[0, 4, 0.5, 9]]})"
            "\n"
            R"({"qid": 1, "pred_relevant_windows": []})");
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_THAT(set->moments, SizeIs(2));
  EXPECT_EQ(set->moments[0].truth[0].end, 2);
  EXPECT_EQ(set->moments[0].predicted[0].moment.end, 4);
  EXPECT_EQ(set->moments[0].predicted[0].score, 0.5);
  EXPECT_EQ(set->without_window, 1);
  EXPECT_THAT(set->highlights, IsEmpty());
}

TEST_F(MomentFilesTest, NamesQueriesAndPredictionsWithoutACounterpart) {
  const std::string truth =
      "{\"qid\": 1, \"relevant_windows\": [[0, 1]]}\n{\"qid\": 2, "
      "\"relevant_windows\": [[0, 1]]}";
  const std::string predictions =
      "{\"qid\": 2, \"pred_relevant_windows\": [[0, 1, 1]]}\n{\"qid\": \"1\", "
      "\"pred_relevant_windows\": [[0, 1, 1]]}";
  EXPECT_THAT(
      Match(truth, predictions).status().message(),
      HasSubstr("no prediction for 1 of 2 queries (qid 1); no query for 1 "
                "of 2 predictions (qid \"1\"); --allow-missing"));
  const auto set = Match(truth, predictions, /*allow_missing=*/true);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->moments, SizeIs(1));
  EXPECT_THAT(Match(truth, R"({"qid": 3, "pred_relevant_windows": []})", true)
                  .status()
                  .message(),
              HasSubstr("no query has a prediction"));
}

TEST_F(MomentFilesTest, NamesTheLineThatLacksWhatIsMeasured) {
  const std::string truth =
      "{\"qid\": 1, \"relevant_windows\": [[0, 1]]}\n{\"qid\": 2}";
  const auto error = [&](const std::string& predictions) {
    return std::string(Match(truth, predictions).status().message());
  };
  EXPECT_THAT(error("{\"qid\": 1, \"pred_relevant_windows\": []}\n"
                    "{\"qid\": 2, \"pred_relevant_windows\": []}"),
              HasSubstr("line 2 of the ground truth has no "
                        "\"relevant_windows\""));
  EXPECT_THAT(error("{\"qid\": 1, \"pred_relevant_windows\": []}\n"
                    "{\"qid\": 2}"),
              HasSubstr("line 2 of the predictions has no "
                        "\"pred_relevant_windows\""));
  EXPECT_THAT(error("{\"qid\": 2, \"pred_saliency_scores\": [1]}\n"
                    "{\"qid\": 1, \"pred_saliency_scores\": [1]}"),
              HasSubstr("line 2 of the ground truth has no "
                        "\"relevant_clip_ids\""));
  EXPECT_THAT(error("{\"qid\": 1}\n{\"qid\": 2}"), HasSubstr("neither"));
}

}  // namespace
}  // namespace quern::cli
