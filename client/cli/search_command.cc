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
  std::string filter;
  RerankFlags rerank;
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

void PrintTable(const v1::SearchResponse& response, Console& console) {
  if (response.hits().empty()) {
    console.out << "Nothing was found ("
                << TerminalSafe(DescribeReport(response)) << ").\n";
  } else {
    Table table({{"#", Table::Align::kRight},
                 {"score", Table::Align::kRight},
                 {"id", Table::Align::kLeft, /*shrinks=*/true},
                 {"payload", Table::Align::kLeft, /*shrinks=*/true}});
    for (int i = 0; i < response.hits_size(); ++i) {
      const v1::Hit& hit = response.hits(i);
      table.AddRow({absl::StrCat(i + 1), absl::StrFormat("%.3f", hit.score()),
                    hit.item().id(), PayloadSummary(hit.item().payload())});
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

// The picture an item was made from, or its video's first frame, where this
// machine has it.
std::optional<Thumbnail> ItemThumbnail(const v1::Item& item) {
  absl::string_view path = item.media_uri();
  absl::ConsumePrefix(&path, "file://");
  std::error_code error;
  const std::filesystem::path file{std::string(path)};
  if (!file.is_absolute() || !std::filesystem::is_regular_file(file, error)) {
    return std::nullopt;
  }
  auto thumbnail = item.modality() == v1::MODALITY_VIDEO
                       ? VideoThumbnail(file)
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
    const v1::Hit& hit = response.hits(i);
    page.cards.push_back({i + 1, hit.score(), Title(hit.item()),
                          hit.item().id(), ItemThumbnail(hit.item()),
                          SortedFields(hit.item().payload())});
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
    PrintTable(*response, console);
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
