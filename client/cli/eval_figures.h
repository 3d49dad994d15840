#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/cli/console.h"

namespace quern::cli {

// A measured figure under its published name.
struct Figure {
  std::string name;
  std::optional<double> percent;  // Nothing: no query counts for it.
};

// As a JSON object, where figures without a value are null, or as a table,
// which leaves them out.
void PrintFigures(const std::vector<Figure>& figures, bool as_json,
                  Console& console);

// "12, 13, ..." of identifiers, for messages.
std::string NameSome(const std::vector<std::string>& names);

}  // namespace quern::cli
