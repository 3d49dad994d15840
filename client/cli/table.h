#pragma once

#include <string>
#include <vector>

namespace quern::cli {

// "83 %"; empty where it is not known.
std::string ProbabilityCell(bool is_known, float probability);

// A table of text with aligned columns. Not thread-safe.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
    // Gives up width first when the table is too wide, the last such column
    // before the others.
    bool shrinks = false;
  };

  explicit Table(std::vector<Column> columns);

  // As many cells as columns; they are made safe for a terminal.
  void AddRow(std::vector<std::string> cells);

  // Lines ending in "\n", a title line first, columns two spaces apart.
  // Shrinking columns are cut, down to kMinShrunkWidth, so that lines take at
  // most `max_width` columns; 0 cuts nothing.
  std::string Format(int max_width) const;

 private:
  static constexpr int kMinShrunkWidth = 8;

  // Width of each column after shrinking.
  std::vector<int> Widths(int max_width) const;
  std::string FormatLine(const std::vector<std::string>& cells,
                         const std::vector<int>& widths) const;

  const std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace quern::cli
