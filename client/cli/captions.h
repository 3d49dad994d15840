#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quern::cli {

// A test set for image-text retrieval.
struct CaptionSet {
  struct Caption {
    std::string text;
    int64_t image = 0;  // Index into `images`.
    int line = 0;       // In the file, from 1.
  };

  std::vector<std::string> images;  // As written, in order of first mention.
  std::vector<Caption> captions;    // In order of the file.
  // Sentences on lines that say the same as an earlier one; those are left out.
  std::vector<std::string> warnings;
};

// Reads lines of `file<TAB>caption`. Blank lines are skipped, a carriage return
// before the line end is not part of the caption. INVALID_ARGUMENT lists the
// lines that have no tab, no file, no caption, or are not UTF-8; also when
// there is no line at all.
absl::StatusOr<CaptionSet> ReadCaptions(const std::filesystem::path& path);

// The first few of `problems` in one sentence, and how many more there are.
std::string ListProblems(const std::vector<std::string>& problems);

}  // namespace quern::cli
