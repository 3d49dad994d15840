#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include <CLI/CLI.hpp>

#include "client/cli/command.h"
#include "client/cli/files.h"
#include "client/cli/json_format.h"
#include "client/cli/moments_page.h"
#include "client/cli/proto_time.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "engine/base/clock.h"
#include "engine/media/ffmpeg_video_decoder.h"
#include "engine/media/image_writer.h"

namespace quern::cli {
namespace {

constexpr char kFooter[] =
    R"(Prints how well the video fits each sentence over time, and the spans that show it.

Examples:
  quern moments holiday.mp4 "a dog jumps into the water"
  quern moments holiday.mp4 "a dog" "people on a beach" --html holiday.html

Exit status: 0 all good, also when nothing is there; 1 the server or a file failed;
2 wrong usage; 130 interrupted.)";

// Larger videos are left out of the page.
constexpr size_t kMaxPageVideoBytes = 24 << 20;
constexpr int kCurveWidth = 64;  // Columns, where the terminal's are unknown.

struct MomentsOptions {
  std::string video;
  std::vector<std::string> sentences;
  std::string model;
  int limit = 5;
  std::optional<float> min_probability;
  std::optional<float> frames_per_second;
  bool json = false;
  std::string html;
};

v1::GroundSegmentsRequest MakeRequest(const MomentsOptions& options,
                                      std::string video) {
  v1::GroundSegmentsRequest request;
  request.set_model(options.model);
  request.mutable_video()->set_content(std::move(video));
  for (const std::string& sentence : options.sentences) {
    request.add_sentences(sentence);
  }
  request.set_max_segments(options.limit);
  if (options.min_probability.has_value()) {
    request.set_min_probability(*options.min_probability);
  }
  if (options.frames_per_second.has_value()) {
    request.mutable_sampling()->set_frames_per_second(
        *options.frames_per_second);
  }
  request.set_include_saliency(true);
  return request;
}

// The curve in one line of blocks, the frame shown at each column's middle, and
// below it what the best spans cover.
std::string Timeline(const v1::GroundedSentence& sentence, double duration,
                     int width) {
  constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const auto& values = sentence.saliency().values();
  if (values.empty() || duration <= 0) return "";
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const double range = std::max(1e-6, double{*most} - *least);
  std::string curve;
  std::string marks;
  int frame = 0;
  for (int column = 0; column < width; ++column) {
    const double time = duration * (column + 0.5) / width;
    while (frame + 1 < values.size() &&
           Seconds(sentence.saliency().times(frame + 1)) <= time) {
      ++frame;
    }
    const double height = (values[frame] - *least) / range;
    curve += kBlocks[std::min<int>(std::size(kBlocks) - 1,
                                   static_cast<int>(height * 8))];
    const bool is_marked =
        std::any_of(sentence.segments().begin(), sentence.segments().end(),
                    [&](const v1::Segment& segment) {
                      return Seconds(segment.span().start()) <= time &&
                             time < Seconds(segment.span().end());
                    });
    marks += is_marked ? "━" : " ";
  }
  return absl::StrCat(curve, "\n", marks, "\n");
}

void PrintTimelines(const v1::GroundSegmentsResponse& response,
                    Console& console) {
  const double duration = Seconds(response.duration());
  const int width = console.out_width > 0
                        ? std::min(console.out_width, 2 * kCurveWidth)
                        : kCurveWidth;
  for (const v1::GroundedSentence& sentence : response.sentences()) {
    console.out << TerminalSafe(sentence.sentence()) << "\n"
                << Timeline(sentence, duration, width);
    if (sentence.segments().empty()) {
      console.out << "Not in this video.\n\n";
      continue;
    }
    Table table({{"#", Table::Align::kRight},
                 {"from", Table::Align::kRight},
                 {"to", Table::Align::kRight},
                 {"score", Table::Align::kRight},
                 {"probability", Table::Align::kRight}});
    for (int i = 0; i < sentence.segments_size(); ++i) {
      const v1::Segment& segment = sentence.segments(i);
      table.AddRow(
          {absl::StrCat(i + 1), ClockTime(Seconds(segment.span().start())),
           ClockTime(Seconds(segment.span().end())),
           absl::StrFormat("%.3f", segment.score()),
           ProbabilityCell(segment.has_probability(), segment.probability())});
    }
    console.out << table.Format(console.out_width) << "\n";
  }
  for (const std::string& reason : response.degraded_reasons()) {
    console.err << "quern: " << TerminalSafe(reason) << "\n";
  }
}

void PrintJson(const v1::GroundSegmentsResponse& response, Console& console) {
  Json sentences = Json::array();
  for (const v1::GroundedSentence& sentence : response.sentences()) {
    Json segments = Json::array();
    for (const v1::Segment& segment : sentence.segments()) {
      Json out = {{"start", Seconds(segment.span().start())},
                  {"end", Seconds(segment.span().end())},
                  {"score", segment.score()}};
      if (segment.has_probability()) {
        out["probability"] = segment.probability();
      }
      segments.push_back(out);
    }
    Json curve = Json::array();
    for (int i = 0; i < sentence.saliency().values_size(); ++i) {
      curve.push_back({Seconds(sentence.saliency().times(i)),
                       sentence.saliency().values(i)});
    }
    Json out = {{"sentence", sentence.sentence()},
                {"segments", segments},
                {"saliency", curve}};
    if (sentence.has_presence()) out["presence"] = sentence.presence();
    sentences.push_back(out);
  }
  console.out << Dump({{"duration", Seconds(response.duration())},
                       {"model", response.model().name()},
                       {"sentences", sentences}});
}

// Each span's frame nearest to its middle. Those that cannot be had stay
// without.
void AddThumbnails(const std::string& file, MomentsPage& page) {
  constexpr int kSide = 320;
  constexpr int kFrameQuality = 95;  // It is compressed once more.
  constexpr int64_t kMaxFrames = 512;
  struct Nearest {
    MomentsSpan* span;
    double distance = std::numeric_limits<double>::max();
    Image frame;
  };
  std::vector<Nearest> wanted;
  for (MomentsRow& row : page.rows) {
    for (MomentsSpan& span : row.spans) wanted.push_back({.span = &span});
  }
  static const RealClock clock;
  const auto decoder = FfmpegVideoDecoder::Create({}, &clock);
  if (!decoder.ok()) return;
  const auto info = (*decoder)->Decode(
      {.path = file}, {.max_frames = kMaxFrames}, kSide, kSide,
      [] { return absl::OkStatus(); },
      [&](const VideoFrame& frame) {
        for (Nearest& nearest : wanted) {
          const double middle = (nearest.span->start + nearest.span->end) / 2;
          const double distance =
              std::abs(absl::ToDoubleSeconds(frame.time) - middle);
          if (distance >= nearest.distance) continue;
          nearest.distance = distance;
          nearest.frame = frame.image;
        }
        return absl::OkStatus();
      });
  if (!info.ok()) return;
  for (Nearest& nearest : wanted) {
    const auto jpeg = EncodeJpeg(nearest.frame, kFrameQuality);
    if (!jpeg.ok()) continue;
    auto thumbnail = MakeThumbnail(*jpeg);
    if (thumbnail.ok()) nearest.span->thumbnail = *std::move(thumbnail);
  }
}

// What a browser calls the file.
std::string VideoType(const std::string& path) {
  const std::string ending =
      absl::AsciiStrToLower(std::filesystem::path(path).extension().string());
  if (ending == ".webm") return "video/webm";
  if (ending == ".mkv") return "video/x-matroska";
  if (ending == ".mov") return "video/quicktime";
  return "video/mp4";
}

MomentsPage MakePage(const MomentsOptions& options, const std::string& video,
                     const v1::GroundSegmentsResponse& response) {
  MomentsPage page;
  page.title = std::filesystem::path(options.video).filename().string();
  page.duration = Seconds(response.duration());
  page.model = response.model().name();
  page.video_type = VideoType(options.video);
  if (video.size() <= kMaxPageVideoBytes) page.video = video;
  for (const v1::GroundedSentence& sentence : response.sentences()) {
    MomentsRow& row = page.rows.emplace_back();
    row.sentence = sentence.sentence();
    for (const v1::Segment& segment : sentence.segments()) {
      MomentsSpan& span = row.spans.emplace_back();
      span.start = Seconds(segment.span().start());
      span.end = Seconds(segment.span().end());
      span.score = segment.score();
      if (segment.has_probability()) span.probability = segment.probability();
    }
    for (const auto& time : sentence.saliency().times()) {
      row.times.push_back(Seconds(time));
    }
    row.saliency.assign(sentence.saliency().values().begin(),
                        sentence.saliency().values().end());
  }
  AddThumbnails(options.video, page);
  return page;
}

absl::StatusOr<ExitCode> RunMoments(const MomentsOptions& options,
                                    const ConnectionOptions& connection_options,
                                    Console& console) {
  auto connection = Connection::Open(connection_options, console,
                                     Connection::StopOn::kInterrupt);
  if (!connection.ok()) return connection.status();
  Client& client = (*connection)->client();
  const auto video = ReadMedia(client, options.video);
  if (!video.ok()) return video.status();
  const auto response = client.GroundSegments(MakeRequest(options, *video));
  if (!response.ok()) return response.status();
  if (options.json) {
    PrintJson(*response, console);
  } else {
    PrintTimelines(*response, console);
  }
  if (!options.html.empty()) {
    const absl::Status status = WriteFile(
        options.html, RenderMoments(MakePage(options, *video, *response)));
    if (!status.ok()) return status;
    console.err << "Wrote " << TerminalSafe(options.html) << "\n";
  }
  return ExitCode::kOk;
}

}  // namespace

void AddMomentsCommand(CLI::App& app, CommandLine& line) {
  const auto options = std::make_shared<MomentsOptions>();
  CLI::App* command =
      app.add_subcommand("moments", "Finds when in a video something happens");
  command->fallthrough();
  command->footer(kFooter);
  command->add_option("VIDEO", options->video, "The video")
      ->required()
      ->check(CLI::ExistingFile.description(""))
      ->type_name("");
  command->add_option("SENTENCE", options->sentences, "What to find in it")
      ->required()
      ->check(CheckUtf8)
      ->type_name("");
  command->add_option("--model", options->model, "Default: the server's")
      ->check(CheckUtf8)
      ->type_name("NAME");
  command
      ->add_option("-k,--limit", options->limit,
                   "Spans per sentence, 1 to 100. Default: 5")
      ->check(CLI::Range(1, 100).description(""))
      ->type_name("N");
  command
      ->add_option("--min-probability", options->min_probability,
                   "Leaves out spans below. Default: the model's threshold")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("P");
  command
      ->add_option("--fps", options->frames_per_second,
                   "Frames looked at per second, up to 60. Default: 2")
      ->check(CLI::Range(0.001, 60.0).description(""))
      ->type_name("N");
  command->add_flag("--json", options->json, "Prints JSON instead");
  command
      ->add_option("--html", options->html,
                   "Also writes a page that plays the video")
      ->type_name("FILE");
  command->callback([options, &line] {
    line.run = [options, &line](Console& console) {
      return RunMoments(*options, line.connection, console);
    };
  });
}

}  // namespace quern::cli
