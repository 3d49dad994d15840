#include "client/cli/table.h"

#include "absl/strings/str_split.h"
#include <gtest/gtest.h>

#include "client/cli/text.h"

namespace quern::cli {
namespace {

Table TwoColumns() {
  return Table({{"n", Table::Align::kRight},
                {"text", Table::Align::kLeft, /*shrinks=*/true}});
}

TEST(TableTest, AlignsColumns) {
  Table table = TwoColumns();
  table.AddRow({"1", "a dog"});
  table.AddRow({"10", "犬"});
  EXPECT_EQ(table.Format(0),
            " n  text\n"
            " 1  a dog\n"
            "10  犬\n");
}

TEST(TableTest, StaysWithinTheWidth) {
  Table table = TwoColumns();
  table.AddRow({"1", "a very long text that does not fit"});
  table.AddRow({"2", "犬と猫と犬と猫と犬と猫と"});
  for (const auto& line : absl::StrSplit(table.Format(20), '\n')) {
    EXPECT_LE(DisplayWidth(line), 20) << line;
  }
}

TEST(TableTest, CellsCannotBreakTheTable) {
  Table table = TwoColumns();
  table.AddRow({"1", "two\nlines\x1b[2J"});
  EXPECT_EQ(table.Format(0),
            "n  text\n"
            "1  two lines\\u{1b}[2J\n");
}

}  // namespace
}  // namespace quern::cli
