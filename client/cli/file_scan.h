#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quern::cli {

// A picture or a video found in a folder.
struct MediaFile {
  std::filesystem::path path;  // Absolute.
  std::string relative;        // To the folder, "/" between parts; valid UTF-8.
  int64_t size_bytes = 0;
  absl::Time modified;
  bool is_video = false;
};

// A file or folder that cannot be used.
struct BrokenFile {
  std::string name;    // Relative to the folder, valid UTF-8.
  std::string reason;  // A sentence's end: "is empty".
};

struct ScanResult {
  std::vector<MediaFile> files;    // In byte order of `relative`.
  std::vector<BrokenFile> broken;  // In byte order of `name`.
};

// By its ending: jpg jpeg png webp gif tif tiff heic avif, in any case.
bool IsPictureName(absl::string_view name);

// By its ending: mp4 m4v mov mkv webm avi mpg mpeg ts flv, in any case.
bool IsVideoName(absl::string_view name);

// Pictures and videos in `folder` and below. Hidden files and folders (".name")
// are left out; links to files are followed, links to folders are not, so that
// there are no loops. Empty, unreadable and wrongly named files are broken, not
// errors. NOT_FOUND or PERMISSION_DENIED when `folder` itself cannot be read.
absl::StatusOr<ScanResult> ScanMedia(const std::filesystem::path& folder);

}  // namespace quern::cli
