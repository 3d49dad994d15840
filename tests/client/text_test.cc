#include "client/cli/text.h"

#include <gtest/gtest.h>

namespace quern::cli {
namespace {

TEST(TextTest, BrokenBytesAreReplaced) {
  EXPECT_EQ(ValidUtf8("a\xff\xC3(b"), "a\xEF\xBF\xBD\xEF\xBF\xBD(b");
  EXPECT_EQ(ValidUtf8("héllo 犬"), "héllo 犬");
  EXPECT_FALSE(IsValidUtf8("\xC0\x80"));
  EXPECT_TRUE(IsValidUtf8(""));
}

TEST(TextTest, NothingThatATerminalObeysIsLeft) {
  EXPECT_EQ(TerminalSafe("a\x1b[31mred\x07"), "a\\u{1b}[31mred\\u{7}");
  EXPECT_EQ(TerminalSafe("two\nlines\tand\r"), "two lines and ");
  EXPECT_EQ(TerminalSafe("\u202Eevil"), "\\u{202e}evil");
  EXPECT_EQ(TerminalSafe("\u009B1m"), "\\u{9b}1m");
  EXPECT_EQ(TerminalSafe(std::string("a\0b", 3)), "a\\u{0}b");
}

TEST(TextTest, WidthCountsColumns) {
  EXPECT_EQ(DisplayWidth("abc"), 3);
  EXPECT_EQ(DisplayWidth("犬と猫"), 6);
  EXPECT_EQ(DisplayWidth("e\u0301"), 1);
}

TEST(TextTest, CutsBetweenCharacters) {
  EXPECT_EQ(CutToWidth("abcdef", 6), "abcdef");
  EXPECT_EQ(CutToWidth("abcdef", 4), "abc…");
  EXPECT_EQ(CutToWidth("犬と猫", 5), "犬と…");
  EXPECT_EQ(CutToWidth("犬と猫", 4), "犬…");  // と would need columns 3 and 4.
  EXPECT_EQ(CutToWidth("e\u0301e\u0301e\u0301", 2), "e\u0301…");
  EXPECT_EQ(CutToWidth("abc", 1), "…");
  EXPECT_EQ(CutToWidth("abc", 0), "");
}

TEST(TextTest, HtmlIsEscaped) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(EscapeHtml("a\xff\x01"), "a\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace quern::cli
