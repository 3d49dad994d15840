#include "client/cli/captions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<CaptionSet> Read(const std::string& text) {
  const TempFolder folder;
  return ReadCaptions(folder.Write("captions.tsv", text));
}

TEST(CaptionsTest, GroupsCaptionsByImage) {
  const auto set = Read("b.jpg\ta dog\r\na.jpg\ta cat\n\nb.jpg\ttwo\tdogs");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->images, ElementsAre("b.jpg", "a.jpg"));
  ASSERT_EQ(set->captions.size(), 3);
  EXPECT_EQ(set->captions[0].text, "a dog");
  EXPECT_EQ(set->captions[1].image, 1);
  EXPECT_EQ(set->captions[2].image, 0);
  EXPECT_EQ(set->captions[2].text, "two\tdogs");
  EXPECT_EQ(set->captions[2].line, 4);
}

TEST(CaptionsTest, ListsEveryLineThatCannotBeUsed) {
  const auto set = Read("a.jpg\tfine\nno tab\n\tno file\nb.jpg\t \nc\t\xff");
  ASSERT_FALSE(set.ok());
  EXPECT_THAT(set.status().message(), HasSubstr("line 2 has no tab"));
  EXPECT_THAT(set.status().message(), HasSubstr("line 3 names no file"));
  EXPECT_THAT(set.status().message(), HasSubstr("line 4 has no caption"));
  EXPECT_THAT(set.status().message(), HasSubstr("line 5 is not UTF-8"));
}

TEST(CaptionsTest, CountsARepeatedLineOnceAndSaysSo) {
  const auto set = Read("a\tdog\nb\tdog\na\tdog\n");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->captions.size(), 2);
  EXPECT_THAT(set->warnings,
              ElementsAre("line 3 repeats line 1 and is counted once"));
}

TEST(CaptionsTest, NothingIsAnError) {
  EXPECT_FALSE(Read("").ok());
  EXPECT_FALSE(Read("\n\n").ok());
  EXPECT_FALSE(ReadCaptions("/no/such/file").ok());
}

TEST(CaptionsTest, LongListsAreCut) {
  const std::vector<std::string> problems(13, "x");
  EXPECT_THAT(ListProblems(problems), HasSubstr("and 3 more"));
}

}  // namespace
}  // namespace quern::cli
