#include "engine/base/utf8.h"

#include <string>

#include "gtest/gtest.h"

namespace quern {
namespace {

TEST(IsValidUtf8Test, AcceptsEveryLength) {
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8("plain ASCII, longer than eight bytes"));
  EXPECT_TRUE(IsValidUtf8("é"));
  EXPECT_TRUE(IsValidUtf8("漢"));
  EXPECT_TRUE(IsValidUtf8("🦉"));
  EXPECT_TRUE(IsValidUtf8(absl::string_view("\0", 1)));
  EXPECT_TRUE(IsValidUtf8("\xF4\x8F\xBF\xBF"));  // U+10FFFF
}

TEST(IsValidUtf8Test, RejectsWhatIsNotWellFormed) {
  EXPECT_FALSE(IsValidUtf8("\x80"));              // A lone continuation.
  EXPECT_FALSE(IsValidUtf8("\xC3"));              // Cut short.
  EXPECT_FALSE(IsValidUtf8("\xE6\xBC"));          // Cut short.
  EXPECT_FALSE(IsValidUtf8("\xC0\xAF"));          // Overlong '/'.
  EXPECT_FALSE(IsValidUtf8("\xE0\x80\xAF"));      // Overlong '/'.
  EXPECT_FALSE(IsValidUtf8("\xED\xA0\x80"));      // A surrogate.
  EXPECT_FALSE(IsValidUtf8("\xF4\x90\x80\x80"));  // Beyond U+10FFFF.
  EXPECT_FALSE(IsValidUtf8("\xFF"));
}

TEST(IsValidUtf8Test, FindsABadByteAnywhere) {
  const std::string good = "sixteen bytes ok, and then some more";
  for (size_t position = 0; position < good.size(); ++position) {
    std::string bad = good;
    bad[position] = '\xFE';
    EXPECT_FALSE(IsValidUtf8(bad)) << position;
  }
}

}  // namespace
}  // namespace quern
