#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/failure.h"
#include "client/cli/files.h"
#include "client/cli/fine_options.h"
#include "client/cli/gallery.h"
#include "client/cli/json_format.h"
#include "client/cli/place.h"
#include "client/cli/proto_time.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace quern::cli {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

constexpr char kFooter[] =
    R"(Text, --image, --video and --id may be given together: they are added up.

Examples:
  quern search "a dog in the snow"
  quern search --image cat.jpg -k 5 --json
  quern search "red flowers" --html flowers.html
  quern search --id birds/wren.jpg --collection stamps
  quern search "a red ball" --rerank best
  quern search --regions "a red ball" --html balls.html
  quern search --moments "a dog jumps into the water" --min-probability 0.5

--regions and --moments look into what a collection keeps of its items (quern
collections create --parts).

Which server: see --address and --local in quern --help.

Exit status: 0 all good, also without hits; 1 the server or a file failed;
2 wrong usage; 130 interrupted.)";

// Largest picture read for a thumbnail.
constexpr int64_t kMaxThumbnailBytes = 64 << 20;

struct SearchOptions {
  std::vector<std::string> words;
  std::string image;
  std::string video;
  std::string item_id;
  std::string collection = "photos";
  int limit = 10;
  std::optional<float> min_score;
  bool regions = false;
  bool moments = false;
  std::optional<float> min_probability;
  std::string filter;
  RerankFlags rerank;

  bool wants_parts() const { return regions || moments; }
  bool json = false;
  std::string html;
};

std::string QueryText(const SearchOptions& options) {
  return absl::StrJoin(options.words, " ");
}

// The query for people.
std::string DescribeQuery(const SearchOptions& options) {
  std::vector<std::string> parts;
  if (!options.words.empty()) parts.push_back(QueryText(options));
  if (!options.image.empty()) {
    parts.push_back(std::filesystem::path(options.image).filename().string());
  }
  if (!options.video.empty()) {
    parts.push_back(std::filesystem::path(options.video).filename().string());
  }
  if (!options.item_id.empty()) {
    parts.push_back(absl::StrCat("like ", options.item_id));
  }
  return ValidUtf8(absl::StrJoin(parts, " + "));
}

// The bytes of the files that the query names.
struct QueryMedia {
  std::string picture;
  std::string video;
};

v1::SearchRequest MakeRequest(const SearchOptions& options,
                              const QueryMedia& media) {
  v1::SearchRequest request;
  request.set_collection(options.collection);
  request.set_page_size(options.limit);
  if (options.min_score.has_value()) request.set_min_score(*options.min_score);
  if (options.regions) request.set_granularity(v1::GRANULARITY_REGION);
  if (options.moments) request.set_granularity(v1::GRANULARITY_SEGMENT);
  if (options.min_probability.has_value()) {
    request.set_min_probability(*options.min_probability);
  }
  request.set_filter(options.filter);
  SetRerank(options.rerank, request);
  v1::Query& query = *request.mutable_query();
  if (!options.words.empty()) query.add_parts()->set_text(QueryText(options));
  if (!options.image.empty()) {
    query.add_parts()->mutable_image()->set_content(media.picture);
  }
  if (!options.video.empty()) {
    query.add_parts()->mutable_video()->set_content(media.video);
  }
  if (!options.item_id.empty()) query.add_parts()->set_item_id(options.item_id);
  return request;
}

// What `quern index` writes of every file, and which says little.
bool IsFileField(const std::string& key) {
  return key == "file" || key == "size_bytes" || key == "modified";
}

std::vector<std::pair<std::string, std::string>> SortedFields(
    const Struct& payload) {
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [key, value] : payload.fields()) {
    fields.emplace_back(key, Summary(value));
  }
  std::sort(fields.begin(), fields.end());
  return fields;
}

// "key: value, key: value".
std::string PayloadSummary(const Struct& payload) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : SortedFields(payload)) {
    if (!IsFileField(key)) parts.push_back(absl::StrCat(key, ": ", value));
  }
  return absl::StrJoin(parts, ", ");
}

double Milliseconds(const v1::StageTime& stage) {
  return static_cast<double>(stage.duration().seconds()) * 1e3 +
         static_cast<double>(stage.duration().nanos()) / 1e6;
}

// "3 of 290 items; encode 9.8 ms, search 0.4 ms".
std::string DescribeReport(const v1::SearchResponse& response) {
  std::vector<std::string> stages;
  for (const v1::StageTime& stage : response.report().stages()) {
    stages.push_back(
        absl::StrFormat("%s %.1f ms", stage.stage(), Milliseconds(stage)));
  }
  return absl::StrCat(response.hits_size(), " of ",
                      response.report().item_count(), " items",
                      stages.empty() ? "" : "; ", absl::StrJoin(stages, ", "));
}

// Sentences on why the hits may not be the best.
std::vector<std::string> Warnings(const v1::SearchReport& report) {
  std::vector<std::string> warnings(report.degraded_reasons().begin(),
                                    report.degraded_reasons().end());
  if (report.degraded() && warnings.empty()) {
    warnings.push_back("The search was degraded.");
  }
  if (report.query_truncated()) {
    warnings.push_back(
        "The text is longer than the model reads: its end did not count.");
  }
  return warnings;
}

void PrintTable(const SearchOptions& options,
                const v1::SearchResponse& response, Console& console) {
  if (response.hits().empty()) {
    console.out << "Nothing was found ("
                << TerminalSafe(DescribeReport(response)) << ").\n";
  } else {
    std::vector<Table::Column> columns = {{"#", Table::Align::kRight},
                                          {"score", Table::Align::kRight}};
    if (options.wants_parts()) {
      columns.push_back({"probability", Table::Align::kRight});
      columns.push_back({options.regions ? "region" : "moment"});
    }
    columns.push_back({"id", Table::Align::kLeft, /*shrinks=*/true});
    columns.push_back({"payload", Table::Align::kLeft, /*shrinks=*/true});
    Table table(columns);
    for (int i = 0; i < response.hits_size(); ++i) {
      const v1::Hit& hit = response.hits(i);
      std::vector<std::string> cells = {absl::StrCat(i + 1),
                                        absl::StrFormat("%.3f", hit.score())};
      if (options.wants_parts()) {
        cells.push_back(
            ProbabilityCell(hit.has_probability(), hit.probability()));
        cells.push_back(PlaceText(hit));
      }
      cells.push_back(hit.item().id());
      cells.push_back(PayloadSummary(hit.item().payload()));
      table.AddRow(std::move(cells));
    }
    console.out << table.Format(console.out_width)
                << TerminalSafe(DescribeReport(response)) << "\n";
  }
  for (const std::string& warning : Warnings(response.report())) {
    console.err << "quern: " << TerminalSafe(warning) << "\n";
  }
}

void PrintJson(const SearchOptions& options, const v1::SearchResponse& response,
               Console& console) {
  Json query = Json::object();
  if (!options.words.empty()) query["text"] = QueryText(options);
  if (!options.image.empty()) query["image"] = options.image;
  if (!options.video.empty()) query["video"] = options.video;
  if (!options.item_id.empty()) query["id"] = options.item_id;
  Json hits = Json::array();
  for (int i = 0; i < response.hits_size(); ++i) {
    hits.push_back(ToJson(response.hits(i), i + 1));
  }
  console.out << Dump({{"query", query},
                       {"collection", options.collection},
                       {"hits", hits},
                       {"report", ToJson(response.report())}});
}

absl::StatusOr<Thumbnail> PictureThumbnail(const std::filesystem::path& file) {
  const auto bytes = ReadFile(file, kMaxThumbnailBytes);
  if (!bytes.ok()) return bytes.status();
  return MakeThumbnail(*bytes);
}

// The picture that a hit's item was made from, or the frame in the middle of
// its segment or else the first one of its video, where this machine has it.
std::optional<Thumbnail> HitThumbnail(const v1::Hit& hit,
                                      const std::optional<GallerySpan>& span) {
  const v1::Item& item = hit.item();
  const double middle = span.has_value() ? (span->start + span->end) / 2 : 0;
  absl::string_view path = item.media_uri();
  absl::ConsumePrefix(&path, "file://");
  std::error_code error;
  const std::filesystem::path file{std::string(path)};
  if (!file.is_absolute() || !std::filesystem::is_regular_file(file, error)) {
    return std::nullopt;
  }
  auto thumbnail = item.modality() == v1::MODALITY_VIDEO
                       ? VideoThumbnail(file, absl::Seconds(middle))
                       : PictureThumbnail(file);
  if (!thumbnail.ok()) return std::nullopt;
  return *std::move(thumbnail);
}

// The first field that reads like a title, or the id.
std::string Title(const v1::Item& item) {
  for (const char* key : {"title", "description", "caption", "name"}) {
    const auto found = item.payload().fields().find(key);
    if (found != item.payload().fields().end() &&
        found->second.kind_case() == Value::kStringValue &&
        !found->second.string_value().empty()) {
      return found->second.string_value();
    }
  }
  return item.id();
}

GalleryCard MakeCard(int rank, const v1::Hit& hit) {
  GalleryCard card{.rank = rank,
                   .score = hit.score(),
                   .title = Title(hit.item()),
                   .id = hit.item().id(),
                   .fields = SortedFields(hit.item().payload())};
  if (hit.has_probability()) card.probability = hit.probability();
  if (!hit.evidence().empty() && hit.evidence(0).has_box()) {
    const v1::Box& box = hit.evidence(0).box();
    card.box = {.left = box.left(),
                .top = box.top(),
                .width = box.right() - box.left(),
                .height = box.bottom() - box.top()};
  }
  if (!hit.evidence().empty() && hit.evidence(0).has_span()) {
    const v1::TimeSpan& span = hit.evidence(0).span();
    card.span = {.start = Seconds(span.start()),
                 .end = Seconds(span.end()),
                 .duration = Seconds(hit.item().parts().duration())};
  }
  card.thumbnail = HitThumbnail(hit, card.span);
  return card;
}

GalleryPage MakePage(const SearchOptions& options, const std::string& picture,
                     const v1::SearchResponse& response) {
  const v1::SearchReport& report = response.report();
  GalleryPage page;
  page.query = DescribeQuery(options);
  if (auto thumbnail = MakeThumbnail(picture);
      !picture.empty() && thumbnail.ok()) {
    page.query_picture = *std::move(thumbnail);
  }
  page.collection = options.collection;
  page.model = report.model().name();
  page.item_count = report.item_count();
  page.warnings = Warnings(report);
  for (const v1::StageTime& stage : report.stages()) {
    page.stages.push_back({stage.stage(), Milliseconds(stage)});
  }
  for (int i = 0; i < response.hits_size(); ++i) {
    page.cards.push_back(MakeCard(i + 1, response.hits(i)));
  }
  return page;
}

absl::StatusOr<ExitCode> RunSearch(const SearchOptions& options,
                                   const ConnectionOptions& connection_options,
                                   Console& console) {
  if (options.words.empty() && options.image.empty() && options.video.empty() &&
      options.item_id.empty()) {
    return UsageError(
        "say what to search for: a text, --image, --video or --id");
  }
  if (options.wants_parts() && options.words.empty()) {
    return UsageError("--regions and --moments look for a text: give one");
  }
  if (options.min_probability.has_value() && !options.wants_parts()) {
    return UsageError("--min-probability takes --regions or --moments");
  }
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  Client& client = (*connection)->client();
  QueryMedia media;
  for (const auto& [path, bytes] : {std::pair(&options.image, &media.picture),
                                    std::pair(&options.video, &media.video)}) {
    if (path->empty()) continue;
    auto read = ReadMedia(client, *path);
    if (!read.ok()) return read.status();
    *bytes = *std::move(read);
  }
  const auto response = client.Search(MakeRequest(options, media));
  if (!response.ok()) return response.status();
  if (options.json) {
    PrintJson(options, *response, console);
  } else {
    PrintTable(options, *response, console);
  }
  if (!options.html.empty()) {
    if (absl::Status status = WriteFile(
            options.html,
            RenderGallery(MakePage(options, media.picture, *response)));
        !status.ok()) {
      return status;
    }
    console.err << "Wrote " << TerminalSafe(options.html) << "\n";
  }
  return ExitCode::kOk;
}

}  // namespace

void AddSearchCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<SearchOptions>();
  CLI::App* command = app.add_subcommand(
      "search", "Finds what fits a text, a picture or a video best");
  command->fallthrough();
  command->footer(kFooter);
  command->add_option("TEXT", options->words, "What it should show")
      ->check(CheckUtf8)
      ->type_name("");
  command
      ->add_option("--image", options->image, "A picture to find similar ones")
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE");
  command->add_option("--video", options->video, "A video, likewise")
      ->check(CLI::ExistingFile.description(""))
      ->type_name("FILE");
  command->add_option("--id", options->item_id, "A stored item, likewise")
      ->check(CheckUtf8)
      ->type_name("ITEM");
  command
      ->add_option("--collection", options->collection,
                   "Where to search. Default: photos")
      ->check(CheckUtf8)
      ->type_name("NAME");
  command
      ->add_option("-k,--limit", options->limit,
                   "Hits, 1 to 10000. Default: 10")
      ->check(CLI::Range(1, 10000).description(""))
      ->type_name("N");
  command
      ->add_option("--min-score", options->min_score,
                   "Leaves out hits below. Default: none")
      ->type_name("S");
  command
      ->add_option(
          "--filter", options->filter,
          "Only items whose payload fits, as 'year >= 2020'; of fields "
          "that the collection declares")
      ->type_name("FILTER");
  CLI::Option* regions = command->add_flag(
      "--regions", options->regions,
      "Finds regions of pictures instead of whole pictures and videos");
  command
      ->add_flag("--moments", options->moments,
                 "Finds segments of videos, likewise")
      ->excludes(regions);
  command
      ->add_option("--min-probability", options->min_probability,
                   "Of --regions and --moments: leaves out what is there less "
                   "probably, 0 to 1. Default: 0")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("P");
  AddRerankOptions(*command, options->rerank);
  command->add_flag("--json", options->json, "Prints JSON instead of a table");
  command
      ->add_option("--html", options->html,
                   "Also writes a page with the pictures")
      ->type_name("FILE");
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return RunSearch(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
