#include "client/cli/collection_table.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

#include "client/cli/table.h"
#include "client/cli/text.h"

namespace quern::cli {

std::string FormatCollections(const std::vector<v1::Collection>& collections,
                              int width) {
  if (collections.empty()) return "There are no collections.\n";
  Table table({{"collection"},
               {"items", Table::Align::kRight},
               {"model", Table::Align::kLeft, /*shrinks=*/true},
               {"dimension", Table::Align::kRight},
               {"disk", Table::Align::kRight},
               {"state"}});
  for (const v1::Collection& collection : collections) {
    const v1::CollectionStatus& status = collection.status();
    table.AddRow({collection.name(), absl::StrCat(status.item_count()),
                  collection.model(), absl::StrCat(collection.dimension()),
                  FormatBytes(status.disk_bytes()),
                  FormatState(status.state())});
  }
  std::string text = table.Format(width);
  for (const v1::Collection& collection : collections) {
    if (collection.status().message().empty()) continue;
    absl::StrAppend(&text, "\n", TerminalSafe(collection.name()), ": ",
                    TerminalSafe(collection.status().message()), "\n");
  }
  return text;
}

std::string FormatBytes(int64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatState(v1::CollectionStatus::State state) {
  return absl::AsciiStrToLower(
      absl::StripPrefix(v1::CollectionStatus::State_Name(state), "STATE_"));
}

}  // namespace quern::cli
