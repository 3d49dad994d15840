#include "engine/filter/filter.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"

namespace quern {
namespace {

using ::testing::HasSubstr;

const std::vector<FieldDeclaration>& Fields() {
  static const auto* fields = new std::vector<FieldDeclaration>{
      {"lang", FieldType::kString},
      {"year", FieldType::kNumber},
      {"public", FieldType::kBool},
      {"taken", FieldType::kTimestamp},
      {"tags", FieldType::kString, /*repeated=*/true},
      {"scores", FieldType::kNumber, /*repeated=*/true},
      {"camera.model", FieldType::kString},
      {"größe.höhe", FieldType::kNumber},
      {"odd name.AND.-x", FieldType::kString},
  };
  return *fields;
}

// The canonical text, or the error.
std::string Canonical(absl::string_view text) {
  const auto filter = ParseFilter(text, Fields());
  if (!filter.ok()) return std::string(filter.status().message());
  return *filter == nullptr ? "everything" : (*filter)->DebugString();
}

struct Case {
  absl::string_view text;
  absl::string_view expected;
};

TEST(FilterTest, ParsesEveryForm) {
  for (const Case& c : std::vector<Case>{
           {"", "everything"},
           {" \t\r\n", "everything"},
           {"year=2020", "year = 2020"},
           {"  year  !=\n2020 ", "year != 2020"},
           {"year < -1.5e3", "year < -1500"},
           {"year <= 0.1", "year <= 0.1"},
           {"year > 007", "year > 7"},
           {"year >= 1e308", "year >= 1e+308"},
           {"year:2020", "year = 2020"},
           {"public = true", "public = true"},
           {"public != false", "public != false"},
           {"public:true", "public = true"},
           {"lang = de", "lang = \"de\""},
           {"lang = 'd\"e'", "lang = \"d\\\"e\""},
           {"lang > \"m\"", "lang > \"m\""},
           {"lang = \"\"", "lang = \"\""},
           {"lang = \"de*\"", "lang = \"de*\""},
           {"lang != \"de*\"", "lang != \"de*\""},
           {"lang = \"*\"", "lang = \"*\""},
           {R"(lang = "d\*")", R"(lang = "d\*")"},
           {R"(lang = "\\\"\'\n\r\t")", R"(lang = "\\\"'\u000a\u000d\u0009")"},
           {R"(lang = "\u00e9\U0001F989")", "lang = \"é🦉\""},
           {"lang = größe", "lang = \"größe\""},
           {"lang:*", "lang:*"},
           {"tags : *", "tags:*"},
           {"tags:beach", "tags:\"beach\""},
           {"tags:\"b*\"", "tags:\"b*\""},
           {"scores:3", "scores:3"},
           {"NOT tags:sea", "NOT tags:\"sea\""},
           {"tags IN (b, a, 'b')", "tags IN (\"a\", \"b\")"},
           {"year IN (3,1, 2)", "year IN (1, 2, 3)"},
           {"year IN(5)", "year = 5"},
           {"camera.model = X100", "camera.model = \"X100\""},
           {"camera . model = X100", "camera.model = \"X100\""},
           {"größe.höhe > 3", "größe.höhe > 3"},
           {"\"odd name\".\"AND\".\"-x\" = a",
            "\"odd name\".\"AND\".\"-x\" = \"a\""},
           {"taken > 2024-05-01T12:00:00+02:00",
            "taken > \"2024-05-01T10:00:00Z\""},
           {"taken <= \"2024-05-01t12:00:00.123456789123z\"",
            "taken <= \"2024-05-01T12:00:00.123456789Z\""},
           {"taken = '0001-01-01T00:00:00Z'",
            "taken = \"0001-01-01T00:00:00Z\""},
       }) {
    EXPECT_EQ(Canonical(c.text), c.expected) << c.text;
  }
}

// AIP-160 lets OR bind tighter than AND, and NOT tighter than both.
TEST(FilterTest, HasThePrecedenceOfAip160) {
  for (const Case& c : std::vector<Case>{
           {"year=1 AND year=2 OR year=3",
            "year = 1 AND (year = 2 OR year = 3)"},
           {"year=1 OR year=2 AND year=3 OR year=4",
            "(year = 1 OR year = 2) AND (year = 3 OR year = 4)"},
           {"(year=1 AND year=2) OR year=3",
            "(year = 1 AND year = 2) OR year = 3"},
           {"year=1 AND year=2 AND year=3",
            "year = 1 AND year = 2 AND year = 3"},
           {"year=1 AND (year=2 AND year=3)",
            "year = 1 AND (year = 2 AND year = 3)"},
           {"NOT year=1 AND year=2", "year != 1 AND year = 2"},
           {"-year=1 OR -tags:x", "year != 1 OR NOT tags:\"x\""},
           {"NOT (year=1 OR year=2)", "NOT (year = 1 OR year = 2)"},
           {"NOT(NOT(year=1))", "NOT (year != 1)"},
           {"NOT year != 1", "NOT (year != 1)"},
           {"NOT year < 1", "NOT year < 1"},
           {"((year=1))", "year = 1"},
       }) {
    EXPECT_EQ(Canonical(c.text), c.expected) << c.text;
  }
}

TEST(FilterTest, SaysWhereAndWhatIsWrong) {
  for (const Case& c : std::vector<Case>{
           {"year",
            "column 5 (byte 4): expected = != < <= > >= : or IN behind "
            "the field \"year\", not the end"},
           {"year =", "column 7 (byte 6): expected a value, not the end"},
           {"year = )", "column 8 (byte 7): expected a value, not \")\""},
           {"year == 1", "column 7 (byte 6): expected a value, not \"=\""},
           {"year = 1 and year = 2",
            "column 10 (byte 9): expected AND, OR or the end (operators are "
            "written in capitals), not \"and\""},
           {"year = 1 year = 2", "column 10 (byte 9): expected AND, OR"},
           {"(year = 1", "column 10 (byte 9): expected AND, OR or \")\", not"},
           {"year = 1)", "column 9 (byte 8): expected AND, OR or the end"},
           {"AND", "column 1 (byte 0): expected a field, not \"AND\""},
           {"year = 1 AND",
            "column 13 (byte 12): expected a field, not the end"},
           {"NOT NOT year = 1", "column 5 (byte 4): expected a field"},
           {"()", "column 2 (byte 1): expected a field, not \")\""},
           {"= 3", "column 1 (byte 0): expected a field, not \"=\""},
           {"lang = 'ü' AND size = 1",
            "column 16 (byte 16): there is no payload field \"size\"; declared "
            "are \"lang\", \"year\", \"public\", \"taken\", \"tags\", "},
           {"camera = x", "there is no payload field \"camera\""},
           {"camera.model.x = x", "no payload field \"camera.model.x\""},
           {"camera. = x", "column 9 (byte 8): expected a field"},
           {"year = \"2020\"",
            "column 8 (byte 7): the field \"year\" is a number, which cannot "
            "be "
            "compared with the text \"2020\""},
           {"year > abc", "is a number, which cannot be compared with \"abc\""},
           {"year > 1e999", "is a number, which cannot be compared with"},
           {"year > nan", "is a number"},
           {"year > inf", "is a number"},
           {"year > 0x10", "is a number"},
           {"year = *", "is a number"},
           {"lang = 5",
            "column 8 (byte 7): the field \"lang\" is a string, "
            "which cannot be compared with \"5\"; write it in quotes"},
           {"lang = true", "is a string"},
           {"lang = de*", "in quotes"},
           {"public = 1", "write true or false, without quotes"},
           {"public = \"true\"", "is a bool"},
           {"public < true",
            "column 8 (byte 7): the field \"public\" is a bool, "
            "which has no order"},
           {"taken > 2024-05-01", "write RFC 3339 with a time zone"},
           {"taken > \"2024-05-01T12:00:00\"", "is a timestamp"},
           {"taken > \"2024-02-30T12:00:00Z\"", "is a timestamp"},
           {"taken > infinite-future", "is a timestamp"},
           {"taken > \"0000-12-31T23:59:59Z\"", "is a timestamp"},
           {"taken > \"2024-05-01T12:00:00Z*\"", "is a timestamp"},
           {"tags = a", "column 6 (byte 5): the field \"tags\" is a list"},
           {"scores > 1", "the field \"scores\" is a list"},
           {"lang < \"a*\"", "can only stand behind =, != and :"},
           {"lang IN (\"a*\")", "can only stand behind =, != and :"},
           {"lang = \"a*b\"",
            "column 10 (byte 9): \"*\" can only be at the end"},
           {"lang = \"abc",
            "column 8 (byte 7): the text that begins here has no"},
           {"lang = \"abc\\", "has no closing quote"},
           {R"(lang = "a\x41")", "column 10 (byte 9): unknown escape"},
           {R"(lang = "\u12")", "expected 4 hexadecimal digits"},
           {R"(lang = "\ud800")", "expected 4 hexadecimal digits"},
           {R"(lang = "\U00110000")", "expected 8 hexadecimal digits"},
           {"lang IN ()", "column 10 (byte 9): expected a value, not \")\""},
           {"lang IN a", "column 9 (byte 8): expected \"(\" behind IN"},
           {"lang IN (a b)", "column 12 (byte 11): expected \",\" or \")\""},
           {"year IN (1, a)", "column 13 (byte 12): the field \"year\" is"},
           {"lang = \xFF", "is not UTF-8"},
       }) {
    const auto filter = ParseFilter(c.text, Fields());
    ASSERT_FALSE(filter.ok()) << c.text;
    EXPECT_EQ(filter.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetField(filter.status()), "filter");
    EXPECT_THAT(std::string(filter.status().message()),
                HasSubstr(std::string(c.expected)))
        << c.text;
  }
}

TEST(FilterTest, SaysThatNothingIsDeclared) {
  const auto filter = ParseFilter("a = 1", {});
  EXPECT_THAT(std::string(filter.status().message()),
              HasSubstr("declares no payload fields"));
}

TEST(FilterTest, ListsSomeOfManyFields) {
  std::vector<FieldDeclaration> fields;
  fields.reserve(100);
  for (int i = 0; i < 100; ++i) fields.push_back({absl::StrCat("f", i)});
  const auto filter = ParseFilter("g = 1", fields);
  EXPECT_THAT(std::string(filter.status().message()),
              HasSubstr("\"f19\" and 80 more"));
}

std::string Repeated(absl::string_view text, size_t times) {
  std::string repeated;
  for (size_t i = 0; i < times; ++i) absl::StrAppend(&repeated, text);
  return repeated;
}

TEST(FilterTest, BoundsTheSize) {
  const std::string comparison = "lang = \"\"";
  std::string text = comparison;
  text.insert(text.size() - 1, kMaxFilterBytes - text.size(), 'x');
  EXPECT_TRUE(ParseFilter(text, Fields()).ok());
  text.insert(text.size() - 1, 1, 'x');
  EXPECT_THAT(Canonical(text), HasSubstr("filter: has 65537 bytes, at most "
                                         "65536 are allowed"));
  EXPECT_THAT(Canonical(Repeated("(", 1 << 20)),
              HasSubstr("has 1048576 bytes"));
}

TEST(FilterTest, BoundsTheDepth) {
  const auto nested = [](size_t levels) {
    return absl::StrCat(Repeated("(", levels), "year = 1",
                        Repeated(")", levels));
  };
  EXPECT_EQ(Canonical(nested(kMaxFilterDepth)), "year = 1");
  EXPECT_THAT(Canonical(nested(kMaxFilterDepth + 1)),
              HasSubstr("column 65 (byte 64): nested deeper than 64 levels"));
  EXPECT_THAT(Canonical(nested(10000)), HasSubstr("nested deeper than"));
  EXPECT_THAT(Canonical(Repeated("-(", 10000)),
              HasSubstr("nested deeper than"));

  // Levels of the tree that need half as many parentheses.
  const auto alternating = [](size_t levels) {
    return absl::StrCat(Repeated("year = 1 AND year = 2 OR (", levels),
                        "year = 3", Repeated(")", levels));
  };
  EXPECT_TRUE(ParseFilter(alternating(kMaxFilterDepth / 2), Fields()).ok());
  EXPECT_THAT(Canonical(alternating(kMaxFilterDepth / 2 + 1)),
              HasSubstr("nested deeper than"));
}

TEST(FilterTest, BoundsTheComparisons) {
  const auto comparisons = [](size_t count) {
    return absl::StrCat("lang:*", Repeated(" OR lang:*", count - 1));
  };
  EXPECT_TRUE(ParseFilter(comparisons(kMaxFilterComparisons), Fields()).ok());
  EXPECT_THAT(Canonical(comparisons(kMaxFilterComparisons + 1)),
              HasSubstr("column 2561 (byte 2560): more than 256 comparisons; "
                        "many values of one field go into IN"));
}

TEST(FilterTest, BoundsTheValues) {
  const auto values = [](size_t count) {
    return absl::StrCat("year IN (1", Repeated(",1", count - 1), ")");
  };
  EXPECT_EQ(Canonical(values(kMaxFilterValues)), "year = 1");
  EXPECT_THAT(Canonical(values(kMaxFilterValues + 1)),
              HasSubstr("more than 4096 values are compared with"));
  EXPECT_THAT(Canonical(absl::StrCat(values(kMaxFilterValues), " AND lang:*")),
              HasSubstr("more than 4096 values are compared with"));
}

TEST(FilterTest, CanonicalTextOfTheDeepestTreeParses) {
  std::string text = "NOT tags:a";
  for (int i = 1; i < kMaxFilterDepth; ++i) {
    text = absl::StrCat("NOT (", text, ")");
  }
  const auto filter = ParseFilter(text, Fields());
  ASSERT_TRUE(filter.ok()) << filter.status();
  const auto again = ParseFilter((*filter)->DebugString(), Fields());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->root(), (*filter)->root());
}

TEST(FilterTest, TreeIsThatOfTheText) {
  const auto filter =
      ParseFilter("lang != \"d*\" AND year IN (2, 1)", Fields());
  ASSERT_TRUE(filter.ok()) << filter.status();
  const FilterNode expected{
      .op = FilterOp::kAnd,
      .children = {{.op = FilterOp::kNot,
                    .children = {{.op = FilterOp::kPrefix,
                                  .field = 0,
                                  .values = {FieldValue(std::string("d"))}}}},
                   {.op = FilterOp::kIn,
                    .field = 1,
                    .values = {FieldValue(1.0), FieldValue(2.0)}}}};
  EXPECT_EQ((*filter)->root(), expected);
  EXPECT_EQ((*filter)->fields().size(), Fields().size());
}

}  // namespace
}  // namespace quern
