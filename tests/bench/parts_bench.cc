// What the forms in which a collection keeps its pictures' grids cost and lose:
// each phrase is found in the same grid in single precision, in a byte a number
// and compressed. A table, a list of pictures after the other.
//
//   parts_bench --images DIR --ground-truth FILE.json [--ground-truth ...]
//               [--grid 7] [--json FILE]

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "engine/base/file.h"
#include "engine/embed/embedder.h"
#include "engine/fine/compressed_features.h"
#include "engine/fine/item_parts.h"
#include "engine/fine/overlap.h"
#include "engine/fine/quantized_features.h"
#include "engine/fine/region_grounder.h"
#include "engine/media/vips_image_decoder.h"
#include "engine/model/load_model.h"
#include "tests/bench/bench.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

constexpr double kNmsIou = 0.5;
constexpr int64_t kSmallGrid = 7;

// A picture's grid, one row a cell, and its sides in cells and in pixels.
struct Grid {
  Matrix cells;
  PartsShape shape;
};

class GridEncoder {
 public:
  explicit GridEncoder(const std::string& package)
      : decoder_(ValueOrDie(VipsImageDecoder::Create({}))),
        model_(ValueOrDie(LoadModel({.path = package}))),
        embedder_({}, decoder_.get(), nullptr, &calls_) {}

  Grid GridOf(const std::string& picture, int64_t side) {
    const Embedded embedded =
        Embed(ImageInput{.encoded = picture},
              {.dense = true, .grid_scale = side / kSmallGrid});
    const DenseMaps& maps = embedded.dense;
    return {.cells = Matrix(maps.grid_height * maps.grid_width, maps.dimension,
                            maps.values),
            .shape = {.grid_height = maps.grid_height,
                      .grid_width = maps.grid_width,
                      .width = embedded.width,
                      .height = embedded.height}};
  }

  std::vector<float> VectorOf(const std::string& text) {
    return Embed(TextInput{text}, {}).embedding;
  }

 private:
  Embedded Embed(const EmbedInput& input, const EmbedOptions& options) {
    absl::Notification done;
    Embedded result;
    embedder_.Embed(context_, model_, {input}, options,
                    [&](std::vector<absl::StatusOr<Embedded>> embedded) {
                      result = ValueOrDie(std::move(embedded.front()));
                      done.Notify();
                    });
    done.WaitForNotification();
    return result;
  }

  const RealClock clock_;
  const RequestContext context_{&clock_, "parts_bench"};
  const std::shared_ptr<const ImageDecoder> decoder_;
  const std::shared_ptr<const Model> model_;
  ThreadPool calls_{{.threads = 2}};
  Embedder embedder_;
};

// A form in which grids are kept.
struct Form {
  std::string name;
  // What comes back of a grid, and the bytes that it took.
  Matrix (*keep)(const Grid& grid, size_t& bytes);
};

Matrix AsTheyAre(const Grid& grid, size_t& bytes) {
  bytes = grid.cells.rows() * grid.cells.columns() * sizeof(float);
  return grid.cells;
}

Matrix AsBytes(const Grid& grid, size_t& bytes) {
  const PartFeatures parts{.shape = grid.shape,
                           .features = QuantizeUnitRows(grid.cells.view())};
  const std::string encoded = EncodeParts(parts);
  bytes = encoded.size();
  return Dequantize(ValueOrDie(DecodeParts(encoded)).features);
}

Matrix Compressed(const Grid& grid, size_t& bytes) {
  const std::string encoded =
      EncodeParts({.shape = grid.shape}, CompressUnitRows(grid.cells.view()));
  bytes = encoded.size();
  return Dequantize(ValueOrDie(DecodeParts(encoded)).features);
}

const std::vector<Form>& Forms() {
  static const auto* const kForms = new std::vector<Form>{
      {"fp32", AsTheyAre}, {"int8", AsBytes}, {"compressed", Compressed}};
  return *kForms;
}

// A phrase and its box, in pixels.
struct Query {
  std::string file;
  std::vector<float> phrase;
  Box box;
};

struct Test {
  std::vector<Query> queries;
  std::map<std::string, Grid> grids;  // By the file's name.
};

// A RefCOCO-style list; phrases of what is not there are left out.
Test ReadTest(const std::string& ground_truth, const std::string& folder,
              int64_t side, GridEncoder& encoder) {
  Test test;
  const auto list = nlohmann::json::parse(ValueOrDie(ReadFile(ground_truth)));
  for (const nlohmann::json& reference : list) {
    if (reference["bbox"].is_null()) continue;
    const auto box = reference["bbox"].get<std::vector<float>>();
    const auto file = reference["file_name"].get<std::string>();
    if (test.grids.count(file) == 0) {
      test.grids.emplace(
          file,
          encoder.GridOf(ValueOrDie(ReadFile(absl::StrCat(folder, "/", file))),
                         side));
    }
    for (const nlohmann::json& sentence : reference["sentences"]) {
      test.queries.push_back(
          {.file = file,
           .phrase = encoder.VectorOf(sentence["sent"].get<std::string>()),
           .box = {.left = box[0],
                   .top = box[1],
                   .right = box[0] + box[2],
                   .bottom = box[1] + box[3]}});
    }
  }
  return test;
}

// The best box, in pixels.
Box Find(const Matrix& cells, const PartsShape& shape,
         absl::Span<const float> phrase) {
  const RegionGrounder grounder({.cells = cells.view(),
                                 .height = shape.grid_height,
                                 .width = shape.grid_width});
  Box box = grounder.Ground({.embedding = phrase}, 1, kNmsIou).front().box;
  box.left *= static_cast<float>(shape.width);
  box.right *= static_cast<float>(shape.width);
  box.top *= static_cast<float>(shape.height);
  box.bottom *= static_cast<float>(shape.height);
  return box;
}

bool IsInside(const Box& box, float x, float y) {
  return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
}

void Measure(const Test& test, const std::string& name, const Form& form,
             std::vector<Row>& rows) {
  std::map<std::string, Matrix> kept;
  double total_bytes = 0;
  for (const auto& [file, grid] : test.grids) {
    size_t bytes = 0;
    kept.emplace(file, form.keep(grid, bytes));
    total_bytes += static_cast<double>(bytes);
  }
  double hits = 0;
  double points = 0;
  for (const Query& query : test.queries) {
    const Box box = Find(kept.at(query.file), test.grids.at(query.file).shape,
                         query.phrase);
    hits += Iou(box, query.box) >= 0.5 ? 1 : 0;
    points += IsInside(query.box, (box.left + box.right) / 2,
                       (box.top + box.bottom) / 2)
                  ? 1
                  : 0;
  }
  const double percent = 100 / static_cast<double>(test.queries.size());
  const std::string prefix = absl::StrCat(name, ", ", form.name, ": ");
  rows.push_back({absl::StrCat(prefix, "pointing"), points * percent, "%", 0,
                  /*higher_is_better=*/true});
  rows.push_back({absl::StrCat(prefix, "Acc@0.5"), hits * percent, "%", 0,
                  /*higher_is_better=*/true});
  rows.push_back({absl::StrCat(prefix, "bytes of an item"),
                  total_bytes / static_cast<double>(test.grids.size()),
                  "bytes"});
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("Measures what the forms of kept grids cost and lose");
  std::string images, json;
  std::vector<std::string> ground_truths;
  int64_t side = 7;
  app.add_option("--images", images, "Folder of the pictures")->required();
  app.add_option("--ground-truth", ground_truths,
                 "RefCOCO-style list of phrases and boxes; may be repeated")
      ->required();
  app.add_option("--grid", side, "Cells a side")->check(CLI::Range(1, 14));
  app.add_option("--json", json, "Write the table as JSON to this file");
  CLI11_PARSE(app, argc, argv);
  quern::GridEncoder encoder(
      absl::StrCat(std::getenv("QUERN_CACHE"), "/models/quern-lite"));
  std::vector<quern::Row> rows;
  for (const std::string& ground_truth : ground_truths) {
    const quern::Test test =
        quern::ReadTest(ground_truth, images, side, encoder);
    for (const quern::Form& form : quern::Forms()) {
      quern::Measure(test, std::filesystem::path(ground_truth).stem(), form,
                     rows);
    }
  }
  quern::Print(rows);
  if (!json.empty()) quern::WriteJson(rows, json);
  return 0;
}
