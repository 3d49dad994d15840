#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/cli/thumbnail.h"

// A page that plays a video and shows where in it sentences were found: one
// HTML file with the video and the pictures in it, and nothing to load.

namespace quern::cli {

struct MomentsSpan {
  double start = 0;  // Seconds.
  double end = 0;
  float score = 0;
  std::optional<float> probability;
  std::optional<Thumbnail> thumbnail;
};

struct MomentsRow {
  std::string sentence;
  std::vector<MomentsSpan> spans;  // Best first.
  std::vector<double> times;       // Of the curve, seconds, rising.
  std::vector<float> saliency;     // As many.
};

struct MomentsPage {
  std::string title;    // The video's file name.
  double duration = 0;  // Seconds.
  std::string model;
  std::string video;       // The file's bytes; empty: it is too large.
  std::string video_type;  // "video/mp4".
  std::vector<MomentsRow> rows;
};

// The whole document, UTF-8; every text in it is escaped.
std::string RenderMoments(const MomentsPage& page);

// "1:02.5".
std::string ClockTime(double seconds);

}  // namespace quern::cli
