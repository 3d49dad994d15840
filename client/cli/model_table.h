#pragma once

#include <string>
#include <vector>

#include "quern/v1/models.pb.h"

namespace quern::cli {

// A table of models, or a sentence when there are none. `width` as in
// Table::Format().
std::string FormatModels(const std::vector<v1::Model>& models, int width);

// Everything about one model, a line each. `width` likewise.
std::string FormatModel(const v1::Model& model, int width);

// An enumerator's name without its prefix, in lower case: "bf16".
std::string FormatPrecision(v1::Model::Precision precision);

}  // namespace quern::cli
