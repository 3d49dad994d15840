#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/console.h"
#include "client/cli/moment_metrics.h"
#include "client/cli/region_metrics.h"
#include "client/cpp/client.h"

// Asks a server to ground a test set's sentences.

namespace quern::cli {

struct AskOptions {
  std::string folder;  // Of the pictures or videos.
  // Asks about the stored items of this collection instead, whose ids are the
  // files' names.
  std::string collection;
  std::string model;  // Empty: the server's default.
  // Of pictures: spatial relations in the phrases are not used.
  bool ignore_relations = false;
  // Likewise: proposals whose crops are encoded again.
  int crop_depth = 0;
};

struct VideoQuestion {
  std::string
      vid;  // Its file's name in the folder, with or without its ending.
  std::string sentence;
};

struct VideoAnswer {
  std::vector<ScoredMoment> windows;  // Best first, at most ten.
  // Mean of the saliency curve in each clip of kClipSeconds, the clip before
  // where no frame was sampled. Empty when the server has no curve.
  std::vector<double> saliency;
};

// One answer per question, in order. Each video is sent once with all of its
// sentences, or as often as 64 of them need. NOT_FOUND names a video that is
// not in the folder, before anything is sent.
absl::StatusOr<std::vector<VideoAnswer>> AskVideos(
    Client& client, const AskOptions& options,
    const std::vector<VideoQuestion>& questions, Console& console);

struct PictureQuestion {
  std::string file;  // In the folder.
  std::string phrase;
};

struct PictureAnswer {
  std::optional<RegionBox> box;    // In pixels. None: nothing was found.
  std::optional<double> presence;  // Probability that the phrase is there.
};

// Likewise.
absl::StatusOr<std::vector<PictureAnswer>> AskPictures(
    Client& client, const AskOptions& options,
    const std::vector<PictureQuestion>& questions, Console& console);

}  // namespace quern::cli
