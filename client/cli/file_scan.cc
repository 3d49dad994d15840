#include "client/cli/file_scan.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <sys/stat.h>

#include "client/cli/text.h"

namespace quern::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array<absl::string_view, 9> kPictureEndings = {
    ".jpg", ".jpeg", ".png",  ".webp", ".gif",
    ".tif", ".tiff", ".heic", ".avif"};

constexpr std::array<absl::string_view, 10> kVideoEndings = {
    ".mp4", ".m4v", ".mov",  ".mkv", ".webm",
    ".avi", ".mpg", ".mpeg", ".ts",  ".flv"};

template <size_t N>
bool HasEnding(absl::string_view name,
               const std::array<absl::string_view, N>& endings) {
  return absl::c_any_of(endings, [name](absl::string_view ending) {
    return name.size() > ending.size() &&
           absl::EndsWithIgnoreCase(name, ending);
  });
}

// Files in one folder after another, without recursion: a deep tree must not
// overflow the stack.
class Scanner {
 public:
  explicit Scanner(fs::path root) : root_(std::move(root)) {}

  // Fails only for the root.
  absl::Status Run() {
    if (absl::Status status = Enter(root_); !status.ok()) return status;
    while (!folders_.empty()) {
      const fs::path folder = std::move(folders_.back());
      folders_.pop_back();
      if (absl::Status status = Enter(folder); !status.ok()) {
        AddBroken(folder, std::string(status.message()));
      }
    }
    absl::c_sort(result_.files, [](const auto& a, const auto& b) {
      return a.relative < b.relative;
    });
    absl::c_sort(result_.broken,
                 [](const auto& a, const auto& b) { return a.name < b.name; });
    return absl::OkStatus();
  }

  ScanResult TakeResult() { return std::move(result_); }

 private:
  absl::Status Enter(const fs::path& folder) {
    std::error_code error;
    fs::directory_iterator entry(folder, error);
    for (; !error && entry != fs::directory_iterator();
         entry.increment(error)) {
      Visit(*entry);
    }
    if (!error) return absl::OkStatus();
    return absl::ErrnoToStatus(error.value(), "cannot be read");
  }

  void Visit(const fs::directory_entry& entry) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, ".")) return;
    std::error_code error;
    if (fs::is_directory(entry.symlink_status(error))) {
      folders_.push_back(entry.path());
    } else if (IsPictureName(name) || IsVideoName(name)) {
      AddMedia(entry.path());
    }
  }

  void AddMedia(const fs::path& path) {
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) {
      AddBroken(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
    } else if (!S_ISREG(info.st_mode)) {
      if (!S_ISDIR(info.st_mode)) AddBroken(path, "is not a regular file");
    } else if (info.st_size == 0) {
      AddBroken(path, "is empty");
    } else if (const std::string relative = Relative(path);
               !IsValidUtf8(relative)) {
      AddBroken(path, "its name is not UTF-8");
    } else {
      result_.files.push_back({.path = path,
                               .relative = relative,
                               .size_bytes = info.st_size,
                               .modified = absl::TimeFromTimespec(info.st_mtim),
                               .is_video = IsVideoName(relative)});
    }
  }

  void AddBroken(const fs::path& path, std::string reason) {
    result_.broken.push_back({ValidUtf8(Relative(path)), std::move(reason)});
  }

  std::string Relative(const fs::path& path) const {
    return path.lexically_relative(root_).generic_string();
  }

  const fs::path root_;
  std::vector<fs::path> folders_;
  ScanResult result_;
};

}  // namespace

bool IsPictureName(absl::string_view name) {
  return HasEnding(name, kPictureEndings);
}

bool IsVideoName(absl::string_view name) {
  return HasEnding(name, kVideoEndings);
}

absl::StatusOr<ScanResult> ScanMedia(const fs::path& folder) {
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), folder.string());
  }
  Scanner scanner(root);
  if (const absl::Status status = scanner.Run(); !status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(folder.string(), " ", status.message()));
  }
  return scanner.TakeResult();
}

}  // namespace quern::cli
