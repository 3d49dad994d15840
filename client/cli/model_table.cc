#include "client/cli/model_table.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "client/cli/collection_table.h"
#include "client/cli/table.h"

namespace quern::cli {
namespace {

std::string StateOf(const v1::Model& model) {
  const std::string state = absl::AsciiStrToLower(
      absl::StripPrefix(v1::Model::State_Name(model.state()), "STATE_"));
  return absl::StrCat(state, model.is_default() ? ", default" : "");
}

}  // namespace

std::string FormatModels(const std::vector<v1::Model>& models, int width) {
  if (models.empty()) return "There are no models.\n";
  Table table({{"model"},
               {"version"},
               {"dimension", Table::Align::kRight},
               {"device"},
               {"memory", Table::Align::kRight},
               {"state"},
               {"fingerprint", Table::Align::kLeft, /*shrinks=*/true}});
  for (const v1::Model& model : models) {
    table.AddRow({model.name(), model.version(),
                  absl::StrCat(model.dimension()), model.device(),
                  FormatBytes(model.memory_bytes()), StateOf(model),
                  model.fingerprint().substr(0, 12)});
  }
  return table.Format(width);
}

std::string FormatModel(const v1::Model& model, int width) {
  Table table(
      {{"model"}, {model.name(), Table::Align::kLeft, /*shrinks=*/true}});
  table.AddRow({"version", model.version()});
  table.AddRow({"description", model.description()});
  table.AddRow({"licence", model.licence()});
  table.AddRow({"state", StateOf(model)});
  table.AddRow({"capabilities", absl::StrJoin(model.capabilities(), ", ")});
  table.AddRow({"dimension", absl::StrCat(model.dimension())});
  if (model.max_tokens() > 0) {
    table.AddRow(
        {"texts", absl::StrCat("up to ", model.max_tokens(), " tokens")});
  }
  if (model.image_width() > 0) {
    table.AddRow({"pictures", absl::StrCat(model.image_width(), " x ",
                                           model.image_height())});
  }
  table.AddRow({"device", model.device()});
  table.AddRow({"precision", FormatPrecision(model.precision())});
  table.AddRow({"memory", FormatBytes(model.memory_bytes())});
  table.AddRow({"fingerprint", model.fingerprint()});
  return table.Format(width);
}

std::string FormatPrecision(v1::Model::Precision precision) {
  return absl::AsciiStrToLower(
      absl::StripPrefix(v1::Model::Precision_Name(precision), "PRECISION_"));
}

}  // namespace quern::cli
