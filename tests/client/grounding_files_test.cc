#include "client/cli/grounding_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class GroundingFilesTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<GroundingQuery>> Queries(const std::string& text) {
    return ReadGroundingQueries(folder_.Write("queries.json", text));
  }
  absl::StatusOr<std::vector<GroundingAnswer>> Answers(
      const std::string& text) {
    return ReadGroundingAnswers(folder_.Write("answers.json", text));
  }

  TempFolder folder_;
};

constexpr char kQueries[] =
    R"([{"file_name": "a.jpg", "bbox": [1, 2, 3, 4],)"
    R"( "sentences": [{"sent_id": 1, "sent": "x"}, {"sent_id": 2, "sent": "y"}]},)"
    R"( {"file_name": "b.jpg", "bbox": null,)"
    R"( "sentences": [{"sent_id": 3, "sent": "z"}]}])";

TEST_F(GroundingFilesTest, ReadsReferences) {
  const auto queries = Queries(kQueries);
  ASSERT_TRUE(queries.ok()) << queries.status();
  ASSERT_THAT(*queries, SizeIs(3));
  EXPECT_EQ((*queries)[1].sentence, "y");
  EXPECT_EQ((*queries)[1].box->height, 4);
  EXPECT_EQ((*queries)[2].file_name, "b.jpg");
  EXPECT_FALSE((*queries)[2].box.has_value());
}

TEST_F(GroundingFilesTest, NamesReferencesThatCannotBeUsed) {
  const auto error = [this](const std::string& text) {
    return std::string(Queries(text).status().message());
  };
  EXPECT_THAT(error("{}"), HasSubstr("is not a list of objects"));
  EXPECT_THAT(error("[{"), HasSubstr("is not JSON"));
  EXPECT_THAT(error("[1]"), HasSubstr("entry 1 is no object"));
  EXPECT_THAT(error("[{}]"), HasSubstr("entry 1 has no \"file_name\""));
  EXPECT_THAT(error(R"([{"file_name": "a", "bbox": [1, 2, -3, 4]}])"),
              HasSubstr("is not left, top, width and height"));
  EXPECT_THAT(error(R"([{"file_name": "a"}])"),
              HasSubstr("has no list \"sentences\""));
  const std::string reference =
      R"({"file_name": "a", "sentences": [{"sent_id": 1, "sent": "x"}]})";
  EXPECT_THAT(error("[" + reference + "," + reference + "]"),
              HasSubstr("sent_id 1 is there twice"));
}

TEST_F(GroundingFilesTest, KeepsTheBestBoxAndItsCentre) {
  const auto answers =
      Answers(R"([{"sent_id": 1, "bbox": [0, 0, 2, 2], "score": 0.1},)"
              R"( {"sent_id": 1, "bbox": [4, 4, 2, 4], "score": 0.3},)"
              R"( {"sent_id": 1, "bbox": [9, 9, 2, 2], "score": 0.3},)"
              R"( {"sent_id": 2, "bbox": [0, 0, 2, 2], "point": [9, 8],)"
              R"(  "presence": 0.7, "score": 3},)"
              R"( {"sent_id": 3, "bbox": null}])");
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_THAT(*answers, SizeIs(3));
  EXPECT_EQ((*answers)[0].box->left, 4);
  EXPECT_EQ((*answers)[0].point->x, 5);
  EXPECT_EQ((*answers)[0].point->y, 6);
  EXPECT_EQ((*answers)[0].presence, 0.3);
  EXPECT_EQ((*answers)[1].point->x, 9);
  EXPECT_EQ((*answers)[1].presence, 0.7);
  EXPECT_FALSE((*answers)[2].point.has_value());
  EXPECT_FALSE((*answers)[2].presence.has_value());
}

TEST_F(GroundingFilesTest, MeasuresPresenceOnlyWhereAllSayIt) {
  const auto queries = Queries(kQueries);
  const std::string first =
      R"([{"sent_id": 1, "bbox": [0, 0, 2, 2], "score": 0.1},)"
      R"( {"sent_id": 2, "bbox": [0, 0, 2, 2], "score": 0.2},)";
  const auto all =
      Answers(first + R"({"sent_id": 3, "bbox": null, "presence": 0}])");
  const auto set = MatchGrounding(*queries, *all, false);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->regions, SizeIs(2));
  EXPECT_THAT(set->presence, SizeIs(3));
  const auto some = Answers(first + R"({"sent_id": 3, "bbox": null}])");
  EXPECT_THAT(MatchGrounding(*queries, *some, false)->presence, IsEmpty());
}

TEST_F(GroundingFilesTest, NamesSentencesWithoutAnAnswer) {
  const auto answers = Answers(R"([{"sent_id": 1, "bbox": null},)"
                               R"( {"sent_id": 9, "bbox": null}])");
  const auto queries = Queries(kQueries);
  EXPECT_THAT(MatchGrounding(*queries, *answers, false).status().message(),
              HasSubstr("no prediction for 2 of 3 queries (sent_id 2, 3); no "
                        "query for 1 of 2 predictions (sent_id 9)"));
  EXPECT_THAT(MatchGrounding(*queries, *answers, true)->regions, SizeIs(1));
}

}  // namespace
}  // namespace quern::cli
