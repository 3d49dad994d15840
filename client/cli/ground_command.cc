#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/files.h"
#include "client/cli/json_format.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "engine/media/image_writer.h"
#include "engine/media/vips_image_decoder.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Each phrase is looked for by itself. "left of", "above" and the like are decided by
where things are.

Examples:
  quern ground photo.jpg "a dog" "the man left of the dog"
  quern ground photo.jpg "a red car" --out boxes.jpg
  quern ground photo.jpg --sentence "A dog chases a ball on the beach."

Exit status: 0 all good, also when nothing is there; 1 the server or a file failed;
2 wrong usage; 130 interrupted.)";

constexpr int kJpegQuality = 90;

struct GroundOptions {
  std::string image;
  std::vector<std::string> phrases;
  std::string sentence;
  std::string model;
  int crop_depth = 0;
  int limit = 5;
  std::optional<float> min_probability;
  bool json = false;
  std::string out;
};

struct Colour {
  const char* name;
  std::array<uint8_t, 3> rgb;
};

// A phrase's boxes have one colour, in turn.
constexpr Colour kColours[] = {
    {"red", {230, 25, 75}},     {"green", {60, 180, 75}},
    {"blue", {0, 130, 200}},    {"orange", {245, 130, 48}},
    {"purple", {145, 30, 180}}, {"cyan", {70, 240, 240}},
    {"yellow", {255, 225, 25}}, {"magenta", {240, 50, 230}}};

const Colour& ColourOf(int phrase) {
  return kColours[phrase % std::size(kColours)];
}

v1::GroundRegionsRequest MakeRequest(const GroundOptions& options,
                                     std::string picture) {
  v1::GroundRegionsRequest request;
  request.set_model(options.model);
  request.mutable_image()->set_content(std::move(picture));
  for (const std::string& phrase : options.phrases) {
    request.mutable_phrases()->add_phrases(phrase);
  }
  if (!options.sentence.empty()) request.set_sentence(options.sentence);
  request.set_max_regions(options.limit);
  if (options.crop_depth > 0) request.set_crop_depth(options.crop_depth);
  if (options.min_probability.has_value()) {
    request.set_min_probability(*options.min_probability);
  }
  return request;
}

void PrintTable(const GroundOptions& options,
                const v1::GroundRegionsResponse& response, Console& console) {
  std::vector<Table::Column> columns = {
      {"phrase", Table::Align::kLeft, /*shrinks=*/true},
      {"left", Table::Align::kRight},
      {"top", Table::Align::kRight},
      {"width", Table::Align::kRight},
      {"height", Table::Align::kRight},
      {"score", Table::Align::kRight},
      {"probability", Table::Align::kRight}};
  const bool is_drawn = !options.out.empty();
  if (is_drawn) columns.push_back({"colour"});
  Table table(columns);
  for (int i = 0; i < response.phrases_size(); ++i) {
    const v1::GroundedPhrase& phrase = response.phrases(i);
    if (phrase.regions().empty()) {
      std::vector<std::string> cells = {
          phrase.phrase(),
          "-",
          "-",
          "-",
          "-",
          "-",
          ProbabilityCell(phrase.has_presence(), phrase.presence())};
      if (is_drawn) cells.emplace_back("");
      table.AddRow(std::move(cells));
    }
    for (const v1::Region& region : phrase.regions()) {
      const v1::PixelBox& box = region.pixels();
      std::vector<std::string> cells = {
          phrase.phrase(),
          absl::StrCat(box.left()),
          absl::StrCat(box.top()),
          absl::StrCat(box.width()),
          absl::StrCat(box.height()),
          absl::StrFormat("%.3f", region.score()),
          ProbabilityCell(region.has_probability(), region.probability())};
      if (is_drawn) cells.emplace_back(ColourOf(i).name);
      table.AddRow(std::move(cells));
    }
  }
  console.out << table.Format(console.out_width);
  for (const std::string& reason : response.degraded_reasons()) {
    console.err << "quern: " << TerminalSafe(reason) << "\n";
  }
}

void PrintJson(const v1::GroundRegionsResponse& response, Console& console) {
  Json phrases = Json::array();
  for (const v1::GroundedPhrase& phrase : response.phrases()) {
    Json regions = Json::array();
    for (const v1::Region& region : phrase.regions()) {
      const v1::PixelBox& box = region.pixels();
      Json out = {{"left", box.left()},
                  {"top", box.top()},
                  {"width", box.width()},
                  {"height", box.height()},
                  {"score", region.score()}};
      if (region.has_probability()) out["probability"] = region.probability();
      regions.push_back(out);
    }
    Json out = {{"phrase", phrase.phrase()}, {"regions", regions}};
    if (phrase.end() > 0) {
      out["begin"] = phrase.begin();
      out["end"] = phrase.end();
    }
    if (phrase.has_presence()) out["presence"] = phrase.presence();
    phrases.push_back(out);
  }
  Json document = {{"width", response.width()},
                   {"height", response.height()},
                   {"model", response.model().name()},
                   {"phrases", phrases}};
  if (response.degraded()) {
    document["degraded_reasons"] = Json::array();
    for (const std::string& reason : response.degraded_reasons()) {
      document["degraded_reasons"].push_back(reason);
    }
  }
  console.out << Dump(document);
}

// A frame of `thickness` pixels inside the box's edges.
void DrawFrame(const v1::PixelBox& box, const Colour& colour, int64_t thickness,
               Image& image) {
  const int64_t right =
      std::min<int64_t>(image.width, box.left() + box.width());
  const int64_t bottom =
      std::min<int64_t>(image.height, box.top() + box.height());
  for (int64_t y = box.top(); y < bottom; ++y) {
    for (int64_t x = box.left(); x < right; ++x) {
      const bool is_inner =
          x >= box.left() + thickness && x < right - thickness &&
          y >= box.top() + thickness && y < bottom - thickness;
      if (is_inner) continue;
      std::copy(colour.rgb.begin(), colour.rgb.end(),
                image.rgb.begin() + (y * image.width + x) * 3);
    }
  }
}

absl::StatusOr<std::string> DrawBoxes(const std::string& picture,
                                      const v1::GroundRegionsResponse& response,
                                      bool as_png) {
  constexpr int64_t kMinThickness = 2;
  constexpr int64_t kSidePerPixel = 200;  // Of thickness.
  const auto decoder = VipsImageDecoder::Create({});
  if (!decoder.ok()) return decoder.status();
  absl::StatusOr<Image> image = (*decoder)->Decode(picture);
  if (!image.ok()) return image.status();
  const int64_t thickness = std::max(
      kMinThickness, std::max(image->width, image->height) / kSidePerPixel);
  // The best boxes last: on top.
  for (int i = response.phrases_size() - 1; i >= 0; --i) {
    const auto& regions = response.phrases(i).regions();
    for (int j = regions.size() - 1; j >= 0; --j) {
      DrawFrame(regions.Get(j).pixels(), ColourOf(i), thickness, *image);
    }
  }
  return as_png ? EncodePng(*image) : EncodeJpeg(*image, kJpegQuality);
}

absl::Status WriteBoxes(const std::string& path, const std::string& picture,
                        const v1::GroundRegionsResponse& response) {
  const std::string ending =
      absl::AsciiStrToLower(std::filesystem::path(path).extension().string());
  const auto encoded = DrawBoxes(picture, response, ending == ".png");
  if (!encoded.ok()) return encoded.status();
  return WriteFile(path, *encoded);
}

absl::StatusOr<ExitCode> RunGround(const GroundOptions& options,
                                   const ConnectionOptions& connection_options,
                                   Console& console) {
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  Client& client = (*connection)->client();
  const auto picture = ReadMedia(client, options.image);
  if (!picture.ok()) return picture.status();
  const auto response = client.GroundRegions(MakeRequest(options, *picture));
  if (!response.ok()) return response.status();
  if (options.json) {
    PrintJson(*response, console);
  } else {
    PrintTable(options, *response, console);
  }
  if (!options.out.empty()) {
    const absl::Status status = WriteBoxes(options.out, *picture, *response);
    if (!status.ok()) return status;
    console.err << "Wrote " << TerminalSafe(options.out) << "\n";
  }
  return ExitCode::kOk;
}

}  // namespace

void AddGroundCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<GroundOptions>();
  CLI::App* command =
      app.add_subcommand("ground", "Finds where in a picture something is");
  command->fallthrough();
  command->footer(kFooter);
  command->add_option("IMAGE", options->image, "The picture")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("");
  CLI::Option* phrases =
      command->add_option("PHRASE", options->phrases, "What to find in it")
          ->check(CheckUtf8)
          ->type_name("");
  CLI::Option* sentence =
      command
          ->add_option("--sentence", options->sentence,
                       "A sentence whose noun phrases are found instead")
          ->check(CheckUtf8)
          ->excludes(phrases)
          ->type_name("TEXT");
  command->add_option("--model", options->model, "Default: the server's")
      ->check(CheckUtf8)
      ->type_name("NAME");
  command
      ->add_option("-k,--limit", options->limit,
                   "Boxes per phrase, 1 to 100. Default: 5")
      ->check(CLI::Range(1, 100).description(""))
      ->type_name("N");
  command
      ->add_option("--min-probability", options->min_probability,
                   "Leaves out boxes below. Default: the model's threshold")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("P");
  command
      ->add_option("--crop-depth", options->crop_depth,
                   "Best boxes whose crops the model looks at again, 0 to 64. "
                   "Default: 0")
      ->check(CLI::Range(0, 64).description(""))
      ->type_name("N");
  command->add_flag("--json", options->json, "Prints JSON instead of a table");
  command
      ->add_option("--out", options->out,
                   "Also draws the boxes into a picture, JPEG or .png")
      ->type_name("FILE");
  command->callback([options, phrases, sentence, &line] {
    if (phrases->count() == 0 && sentence->count() == 0) {
      throw CLI::RequiredError("PHRASE or --sentence");
    }
    line.run = [options, &line](Console& console) {
      return RunGround(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
