// What phrases and sentences say, against what a reader says they say.

#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/fine/noun_phrases.h"
#include "engine/fine/spatial_relations.h"

namespace quern {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct ParseCase {
  std::string phrase;
  std::string subject;
  SpatialRelation relation;
  std::string object;  // Empty: none.
};

class ParseTest : public ::testing::TestWithParam<ParseCase> {};

TEST_P(ParseTest, TakesTheWordsOfPlaceOut) {
  const SpatialPhrase parsed = ParseSpatialPhrase(GetParam().phrase);
  EXPECT_EQ(parsed.subject, GetParam().subject);
  EXPECT_EQ(parsed.relation, GetParam().relation);
  EXPECT_EQ(parsed.object == nullptr ? "" : parsed.object->subject,
            GetParam().object);
}

INSTANTIATE_TEST_SUITE_P(
    Phrases, ParseTest,
    ::testing::Values(
        ParseCase{"a dog", "a dog", SpatialRelation::kNone, ""},
        ParseCase{"the dog left of the man", "the dog", SpatialRelation::kLeft,
                  "the man"},
        ParseCase{"The Dog, to the RIGHT of a tree", "The Dog,",
                  SpatialRelation::kRight, "a tree"},
        ParseCase{"the cup above the plate", "the cup", SpatialRelation::kAbove,
                  "the plate"},
        ParseCase{"a cat that is under the table", "a cat",
                  SpatialRelation::kBelow, "the table"},
        ParseCase{"a bird on top of a house", "a bird", SpatialRelation::kAbove,
                  "a house"},
        ParseCase{"the ball bigger than the dog", "the ball",
                  SpatialRelation::kBigger, "the dog"},
        ParseCase{"a fish inside the bowl", "a fish", SpatialRelation::kInside,
                  "the bowl"},
        ParseCase{"the left dog", "the dog", SpatialRelation::kLeft, ""},
        ParseCase{"biggest apple", "apple", SpatialRelation::kBigger, ""},
        ParseCase{"the man on the right side", "the man",
                  SpatialRelation::kRight, ""},
        ParseCase{"the lower window", "the window", SpatialRelation::kBelow,
                  ""},
        // No places.
        ParseCase{"the left hand", "the left hand", SpatialRelation::kNone, ""},
        ParseCase{"a man left the house", "a man left the house",
                  SpatialRelation::kNone, ""},
        ParseCase{"left", "left", SpatialRelation::kNone, ""},
        ParseCase{"above the man", "above the man", SpatialRelation::kNone, ""},
        ParseCase{"the dog above", "the dog above", SpatialRelation::kNone, ""},
        ParseCase{"ein Hund links vom Mann", "ein Hund links vom Mann",
                  SpatialRelation::kNone, ""}));

TEST(ParseTest, FollowsRelationsInTheObjectUpToFour) {
  const SpatialPhrase two = ParseSpatialPhrase("x left of y above z");
  ASSERT_NE(two.object, nullptr);
  ASSERT_NE(two.object->object, nullptr);
  EXPECT_EQ(two.object->relation, SpatialRelation::kAbove);
  EXPECT_EQ(two.object->object->subject, "z");

  std::string text = "x";
  for (int i = 0; i < 2000; ++i) text += " above x";
  int depth = 0;
  const SpatialPhrase many = ParseSpatialPhrase(text);
  for (const SpatialPhrase* part = &many; part != nullptr;
       part = part->object.get()) {
    ++depth;
  }
  EXPECT_EQ(depth, 5);
}

TEST(RelationTest, HoldsByGeometry) {
  const Box left = {0, 0.4F, 0.2F, 0.6F};
  const Box right = {0.7F, 0.1F, 1, 0.5F};
  EXPECT_GT(RelationHolds(SpatialRelation::kLeft, left, right), 0.99);
  EXPECT_LT(RelationHolds(SpatialRelation::kRight, left, right), 0.01);
  EXPECT_GT(RelationHolds(SpatialRelation::kBelow, left, right), 0.99);
  EXPECT_GT(RelationHolds(SpatialRelation::kBigger, right, left), 0.99);
  EXPECT_GT(RelationHolds(SpatialRelation::kSmaller, left, right), 0.99);
  EXPECT_DOUBLE_EQ(RelationHolds(SpatialRelation::kLeft, left, left), 0.5);
  EXPECT_NEAR(RelationHolds(SpatialRelation::kInside, left, {0, 0, 0.1F, 1}),
              0.5, 1e-6);
  EXPECT_DOUBLE_EQ(RelationHolds(SpatialRelation::kNone, left, right), 1);
}

TEST(RelationTest, SupportIsTheObjectsProbabilityWhereItHolds) {
  const std::vector<Box> subjects = {{0, 0, 0.1F, 1}, {0.9F, 0, 1, 1}};
  const std::vector<PlaceCandidate> objects = {
      {.box = {0.45F, 0, 0.55F, 1}, .probability = 0.75},
      // The same place as the second subject.
      {.box = {0.9F, 0, 1, 1}, .probability = 0.25}};
  const std::vector<double> support =
      RelationSupport(SpatialRelation::kLeft, subjects, objects);
  ASSERT_THAT(support, SizeIs(2));
  EXPECT_NEAR(support[0], 1, 1e-5);
  EXPECT_NEAR(support[1], 0, 1e-5);
}

std::vector<std::string> Phrases(const std::string& sentence,
                                 size_t max_phrases = 64) {
  std::vector<std::string> phrases;
  for (const TextSpan& span : NounPhrases(sentence, max_phrases)) {
    phrases.push_back(sentence.substr(span.begin, span.end - span.begin));
  }
  return phrases;
}

TEST(NounPhrasesTest, AreWhatASentenceIsAbout) {
  EXPECT_THAT(Phrases("A black dog runs through the deep snow."),
              ElementsAre("A black dog", "the deep snow"));
  EXPECT_THAT(Phrases("Two boys are riding their bikes down a hill, laughing"),
              ElementsAre("Two boys", "their bikes", "a hill"));
  EXPECT_THAT(Phrases("a running dog and a man with a red T-shirt"),
              ElementsAre("a running dog", "a man", "a red T-shirt"));
  EXPECT_THAT(Phrases("the boy's old dog watches people"),
              ElementsAre("the boy's old dog", "people"));
}

TEST(NounPhrasesTest, AreNoneWhereNothingIsNamed) {
  EXPECT_THAT(Phrases(""), IsEmpty());
  EXPECT_THAT(Phrases("..., !"), IsEmpty());
  EXPECT_THAT(Phrases("he is running and it was there"), IsEmpty());
  EXPECT_THAT(Phrases("the"), IsEmpty());
}

TEST(NounPhrasesTest, TakesAnyBytesAndKeepsToItsLimit) {
  EXPECT_THAT(Phrases("Ein Hund über Bäumen"), SizeIs(1));
  EXPECT_THAT(Phrases("犬が雪の中を走る"), SizeIs(1));
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "a dog, ";
  EXPECT_THAT(Phrases(many, 64), SizeIs(64));
}

}  // namespace
}  // namespace quern
