#include "client/cli/ask_server.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

#include "client/cli/file_scan.h"
#include "client/cli/files.h"
#include "client/cli/progress.h"
#include "client/cli/proto_time.h"

namespace quern::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSentencesPerCall = 64;
constexpr int kWindows = 10;  // As many as AP looks at.

// A part of the questions that goes out in one call: one file or stored item,
// and the places of its questions.
struct Call {
  fs::path path;  // Of an item its id.
  std::vector<size_t> questions;
};

// Groups questions by their file, in order of first mention.
template <typename Question>
std::vector<Call> GroupByFile(
    const std::vector<Question>& questions,
    const std::map<std::string, fs::path>& path_of_name,
    const std::string Question::*name) {
  std::vector<Call> calls;
  std::map<std::string, size_t> open;
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::string& file = questions[i].*name;
    const auto found = open.find(file);
    if (found == open.end() ||
        calls[found->second].questions.size() == kSentencesPerCall) {
      open[file] = calls.size();
      calls.push_back({path_of_name.at(file), {i}});
    } else {
      calls[found->second].questions.push_back(i);
    }
  }
  return calls;
}

// Stored items by the names of their files, which are their ids.
template <typename Question>
std::map<std::string, fs::path> IdsOf(const std::vector<Question>& questions,
                                      const std::string Question::*name) {
  std::map<std::string, fs::path> ids;
  for (const Question& question : questions) {
    ids.emplace(question.*name, question.*name);
  }
  return ids;
}

absl::Status NotInFolder(const std::string& name, const std::string& folder) {
  return absl::NotFoundError(absl::StrCat(name, " is not in ", folder));
}

// The videos of a folder, by their names with and without their endings.
absl::StatusOr<std::map<std::string, fs::path>> FindVideos(
    const std::string& folder) {
  const auto scan = ScanMedia(folder);
  if (!scan.ok()) return scan.status();
  std::map<std::string, fs::path> paths;
  for (const MediaFile& file : scan->files) {
    if (!file.is_video) continue;
    const fs::path relative(file.relative);
    paths.emplace(file.relative, file.path);
    paths.emplace((relative.parent_path() / relative.stem()).string(),
                  file.path);
  }
  return paths;
}

// The curve's mean in each clip up to `duration`.
std::vector<double> ClipMeans(const v1::Saliency& curve, double duration) {
  const auto clips = static_cast<size_t>(duration / kClipSeconds);
  const int frames = std::min(curve.times_size(), curve.values_size());
  std::vector<double> sums(clips, 0);
  std::vector<int> counts(clips, 0);
  for (int i = 0; i < frames; ++i) {
    const double clip = Seconds(curve.times(i)) / kClipSeconds;
    if (clip < 0 || clip >= static_cast<double>(clips)) continue;
    sums[static_cast<size_t>(clip)] += static_cast<double>(curve.values(i));
    ++counts[static_cast<size_t>(clip)];
  }
  for (size_t i = 0; i < clips; ++i) {
    if (counts[i] > 0) {
      sums[i] /= counts[i];
    } else if (i > 0) {
      sums[i] = sums[i - 1];
    }
  }
  return frames == 0 ? std::vector<double>() : sums;
}

VideoAnswer ToAnswer(const v1::GroundedSentence& sentence, double duration) {
  VideoAnswer answer;
  for (const v1::Segment& segment : sentence.segments()) {
    answer.windows.push_back(
        {{Seconds(segment.span().start()), Seconds(segment.span().end())},
         static_cast<double>(segment.score())});
  }
  answer.saliency = ClipMeans(sentence.saliency(), duration);
  return answer;
}

PictureAnswer ToAnswer(const v1::GroundedPhrase& phrase, double width,
                       double height) {
  PictureAnswer answer;
  if (phrase.has_presence()) {
    answer.presence = static_cast<double>(phrase.presence());
  }
  if (phrase.regions().empty()) return answer;
  const v1::Box& box = phrase.regions(0).box();
  const auto left = static_cast<double>(box.left());
  const auto top = static_cast<double>(box.top());
  answer.box = RegionBox{left * width, top * height,
                         (static_cast<double>(box.right()) - left) * width,
                         (static_cast<double>(box.bottom()) - top) * height};
  return answer;
}

absl::Status WrongCount(int answers, size_t questions) {
  return absl::InternalError(absl::StrCat("the server answered ", answers,
                                          " of ", questions, " sentences"));
}

absl::Status Named(const absl::Status& status, const fs::path& path) {
  return {status.code(),
          absl::StrCat(path.filename().string(), ": ", status.message())};
}

void SetItem(const std::string& collection, const fs::path& id,
             v1::ItemReference& item) {
  item.set_collection(collection);
  item.set_id(id.string());
}

absl::Status AskVideo(Client& client, const AskOptions& options,
                      const std::vector<VideoQuestion>& questions,
                      const Call& call, std::string content,
                      std::vector<VideoAnswer>& answers) {
  v1::GroundSegmentsRequest request;
  request.set_model(options.model);
  if (options.collection.empty()) {
    request.mutable_video()->set_content(std::move(content));
  } else {
    SetItem(options.collection, call.path, *request.mutable_item());
  }
  request.set_max_segments(kWindows);
  request.set_min_probability(0);
  request.set_include_saliency(true);
  for (const size_t i : call.questions) {
    request.add_sentences(questions[i].sentence);
  }
  auto response = client.GroundSegments(request);
  if (absl::IsNotFound(response.status()) && request.has_item() &&
      !call.path.has_extension()) {
    // Test sets name videos without it.
    request.mutable_item()->set_id(call.path.string() + ".mp4");
    response = client.GroundSegments(request);
  }
  if (!response.ok()) return Named(response.status(), call.path);
  if (response->sentences_size() != request.sentences_size()) {
    return WrongCount(response->sentences_size(), call.questions.size());
  }
  for (int i = 0; i < response->sentences_size(); ++i) {
    answers[call.questions[static_cast<size_t>(i)]] =
        ToAnswer(response->sentences(i), Seconds(response->duration()));
  }
  return absl::OkStatus();
}

absl::Status AskPicture(Client& client, const AskOptions& options,
                        const std::vector<PictureQuestion>& questions,
                        const Call& call, std::string content,
                        std::vector<PictureAnswer>& answers) {
  v1::GroundRegionsRequest request;
  request.set_model(options.model);
  if (options.collection.empty()) {
    request.mutable_image()->set_content(std::move(content));
  } else {
    SetItem(options.collection, call.path, *request.mutable_item());
  }
  request.set_max_regions(1);
  request.set_ignore_relations(options.ignore_relations);
  if (options.crop_depth > 0) request.set_crop_depth(options.crop_depth);
  request.set_min_probability(0);
  for (const size_t i : call.questions) {
    request.mutable_phrases()->add_phrases(questions[i].phrase);
  }
  const auto response = client.GroundRegions(request);
  if (!response.ok()) return Named(response.status(), call.path);
  if (response->phrases_size() != request.phrases().phrases_size()) {
    return WrongCount(response->phrases_size(), call.questions.size());
  }
  for (int i = 0; i < response->phrases_size(); ++i) {
    answers[call.questions[static_cast<size_t>(i)]] =
        ToAnswer(response->phrases(i), response->width(), response->height());
  }
  return absl::OkStatus();
}

// Reads each call's file, unless it is about a stored item, and makes the call.
template <typename Question, typename Answer>
absl::StatusOr<std::vector<Answer>> MakeCalls(
    Client& client, const AskOptions& options,
    const std::vector<Question>& questions, const std::vector<Call>& calls,
    absl::Status (*ask)(Client&, const AskOptions&,
                        const std::vector<Question>&, const Call&, std::string,
                        std::vector<Answer>&),
    Console& console) {
  std::vector<Answer> answers(questions.size());
  Progress progress(&console, "Grounding", static_cast<int64_t>(calls.size()));
  const int64_t max_bytes = MaxMediaBytes(client);
  for (const Call& call : calls) {
    absl::StatusOr<std::string> content;
    if (options.collection.empty()) {
      content = ReadFile(call.path, max_bytes);
    } else {
      content = "";
    }
    if (!content.ok()) return content.status();
    const absl::Status status =
        ask(client, options, questions, call, *std::move(content), answers);
    if (!status.ok()) return status;
    progress.Add(/*failed=*/false);
  }
  return answers;
}

}  // namespace

absl::StatusOr<std::vector<VideoAnswer>> AskVideos(
    Client& client, const AskOptions& options,
    const std::vector<VideoQuestion>& questions, Console& console) {
  const auto paths = options.collection.empty()
                         ? FindVideos(options.folder)
                         : IdsOf(questions, &VideoQuestion::vid);
  if (!paths.ok()) return paths.status();
  for (const VideoQuestion& question : questions) {
    if (paths->count(question.vid) == 0) {
      return NotInFolder(question.vid, options.folder);
    }
  }
  return MakeCalls(client, options, questions,
                   GroupByFile(questions, *paths, &VideoQuestion::vid),
                   AskVideo, console);
}

absl::StatusOr<std::vector<PictureAnswer>> AskPictures(
    Client& client, const AskOptions& options,
    const std::vector<PictureQuestion>& questions, Console& console) {
  if (!options.collection.empty()) {
    const auto ids = IdsOf(questions, &PictureQuestion::file);
    return MakeCalls(client, options, questions,
                     GroupByFile(questions, ids, &PictureQuestion::file),
                     AskPicture, console);
  }
  std::map<std::string, fs::path> paths;
  for (const PictureQuestion& question : questions) {
    const fs::path path = fs::path(options.folder) / question.file;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      return NotInFolder(question.file, options.folder);
    }
    paths.emplace(question.file, path);
  }
  return MakeCalls(client, options, questions,
                   GroupByFile(questions, paths, &PictureQuestion::file),
                   AskPicture, console);
}

}  // namespace quern::cli
