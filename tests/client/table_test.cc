#include "client/cli/table.h"

#include "absl/strings/str_split.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/collection_table.h"
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

TEST(CollectionTableTest, SaysWhyACollectionIsNotAsItShouldBe) {
  std::vector<v1::Collection> collections(2);
  collections[0].set_name("cars");
  collections[1].set_name("photos");
  collections[1].mutable_status()->set_state(
      v1::CollectionStatus::STATE_READ_ONLY);
  collections[1].mutable_status()->set_message("the disk is full\x1b[1m");
  const std::string text = FormatCollections(collections, 0);
  EXPECT_THAT(text, testing::HasSubstr("read_only"));
  EXPECT_THAT(text, testing::EndsWith("\n\nphotos: the disk is full" +
                                      TerminalSafe("\x1b[1m") + "\n"));
}

}  // namespace
}  // namespace quern::cli
