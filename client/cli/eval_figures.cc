#include "client/cli/eval_figures.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

#include "client/cli/json_format.h"
#include "client/cli/table.h"

namespace quern::cli {
namespace {

void PrintTable(const std::vector<Figure>& figures, Console& console) {
  Table table({{"figure"}, {"percent", Table::Align::kRight}});
  for (const auto& [name, percent] : figures) {
    if (percent.has_value()) {
      table.AddRow({name, absl::StrFormat("%.2f", *percent)});
    }
  }
  console.out << table.Format(console.out_width);
}

}  // namespace

void PrintFigures(const std::vector<Figure>& figures, bool as_json,
                  Console& console) {
  if (!as_json) {
    PrintTable(figures, console);
    return;
  }
  Json json = Json::object();
  for (const auto& [name, percent] : figures) {
    json[name] = percent.has_value() ? Json(*percent) : Json(nullptr);
  }
  console.out << Dump(json);
}

std::string NameSome(const std::vector<std::string>& names) {
  constexpr size_t kShown = 10;
  const auto end =
      names.begin() + static_cast<ptrdiff_t>(std::min(kShown, names.size()));
  return absl::StrCat(absl::StrJoin(names.begin(), end, ", "),
                      names.size() > kShown ? ", ..." : "");
}

}  // namespace quern::cli
