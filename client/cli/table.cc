#include "client/cli/table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr int kGap = 2;

std::vector<std::string> Titles(const std::vector<Table::Column>& columns) {
  std::vector<std::string> titles;
  titles.reserve(columns.size());
  for (const Table::Column& column : columns) titles.push_back(column.title);
  return titles;
}

}  // namespace

std::string ProbabilityCell(bool is_known, float probability) {
  return is_known ? absl::StrFormat("%.0f %%", 100 * probability) : "";
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = TerminalSafe(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::Format(int max_width) const {
  const std::vector<int> widths = Widths(max_width);
  std::string text = FormatLine(Titles(columns_), widths);
  for (const auto& row : rows_) absl::StrAppend(&text, FormatLine(row, widths));
  return text;
}

std::vector<int> Table::Widths(int max_width) const {
  std::vector<int> widths;
  widths.reserve(columns_.size());
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = DisplayWidth(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, DisplayWidth(row[i]));
    widths.push_back(width);
  }
  if (max_width <= 0) return widths;
  const int gaps = kGap * (static_cast<int>(columns_.size()) - 1);
  int excess = std::accumulate(widths.begin(), widths.end(), gaps) - max_width;
  for (size_t i = columns_.size(); i-- > 0 && excess > 0;) {
    if (!columns_[i].shrinks) continue;
    const int cut = std::clamp(widths[i] - kMinShrunkWidth, 0, excess);
    widths[i] -= cut;
    excess -= cut;
  }
  return widths;
}

std::string Table::FormatLine(const std::vector<std::string>& cells,
                              const std::vector<int>& widths) const {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string cell = CutToWidth(cells[i], widths[i]);
    const std::string padding(
        static_cast<size_t>(std::max(0, widths[i] - DisplayWidth(cell))), ' ');
    if (i > 0) line.append(kGap, ' ');
    if (columns_[i].align == Align::kRight) {
      absl::StrAppend(&line, padding, cell);
    } else {
      absl::StrAppend(&line, cell, padding);
    }
  }
  return absl::StrCat(absl::StripTrailingAsciiWhitespace(line), "\n");
}

}  // namespace quern::cli
