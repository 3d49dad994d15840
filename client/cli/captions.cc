#include "client/cli/captions.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#include "client/cli/text.h"

namespace quern::cli {
namespace {

// Collects a CaptionSet line by line.
class Builder {
 public:
  // Empty, or what is wrong with the line.
  std::string AddLine(absl::string_view text, int line) {
    if (!IsValidUtf8(text)) return "is not UTF-8";
    const size_t tab = text.find('\t');
    if (tab == absl::string_view::npos) {
      return "has no tab between file and caption";
    }
    const auto file = absl::StripAsciiWhitespace(text.substr(0, tab));
    const auto caption = absl::StripAsciiWhitespace(text.substr(tab + 1));
    if (file.empty()) return "names no file";
    if (caption.empty()) return "has no caption";
    Add(std::string(file), std::string(caption), line);
    return {};
  }

  CaptionSet Take() { return std::move(set_); }

 private:
  void Add(std::string file, std::string caption, int line) {
    const auto [same, is_new] = lines_.try_emplace({file, caption}, line);
    if (!is_new) {
      set_.warnings.push_back(absl::StrCat("line ", line, " repeats line ",
                                           same->second,
                                           " and is counted once"));
      return;
    }
    const auto [image, is_new_image] =
        images_.try_emplace(file, static_cast<int64_t>(set_.images.size()));
    if (is_new_image) set_.images.push_back(std::move(file));
    set_.captions.push_back({std::move(caption), image->second, line});
  }

  CaptionSet set_;
  std::map<std::string, int64_t> images_;
  std::map<std::pair<std::string, std::string>, int> lines_;
};

}  // namespace

absl::StatusOr<CaptionSet> ReadCaptions(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return absl::ErrnoToStatus(errno, path.string());
  Builder builder;
  std::vector<std::string> problems;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    if (const std::string problem = builder.AddLine(text, line);
        !problem.empty()) {
      problems.push_back(absl::StrCat("line ", line, " ", problem));
    }
  }
  if (file.bad()) return absl::ErrnoToStatus(EIO, path.string());
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": ", ListProblems(problems)));
  }
  CaptionSet set = builder.Take();
  if (set.captions.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has no captions"));
  }
  return set;
}

std::string ListProblems(const std::vector<std::string>& problems) {
  constexpr size_t kShown = 10;
  std::string text;
  for (size_t i = 0; i < std::min(kShown, problems.size()); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "; ", problems[i]);
  }
  if (problems.size() > kShown) {
    absl::StrAppend(&text, "; and ", problems.size() - kShown, " more");
  }
  return text;
}

}  // namespace quern::cli
