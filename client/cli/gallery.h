#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/thumbnail.h"

// A page of search results that stands alone: one HTML file without scripts and
// without anything to load.

namespace quern::cli {

// In shares of a picture's sides.
struct GalleryBox {
  float left = 0;
  float top = 0;
  float width = 0;
  float height = 0;
};

// In seconds from a video's start.
struct GallerySpan {
  double start = 0;
  double end = 0;
  double duration = 0;  // Of the video; 0: not known.
};

struct GalleryCard {
  int rank = 0;  // From 1.
  float score = 0;
  std::string title;  // What to show big: a description, or the id.
  std::string id;
  std::optional<Thumbnail> thumbnail;  // None: a neutral box.
  // Payload, key and value, in the order to show them.
  std::vector<std::pair<std::string, std::string>> fields;
  std::optional<float> probability = std::nullopt;
  // Where in the picture, or when in the video, the hit is.
  std::optional<GalleryBox> box = std::nullopt;
  std::optional<GallerySpan> span = std::nullopt;
};

struct GalleryStage {
  std::string name;
  double milliseconds = 0;
};

struct GalleryPage {
  std::string query;  // Text, or what stands for it.
  std::optional<Thumbnail> query_picture;
  std::string collection;
  std::string model;
  int64_t item_count = 0;
  std::vector<GalleryStage> stages;
  std::vector<std::string> warnings;  // Why the hits may not be the best.
  std::vector<GalleryCard> cards;     // Best first.
};

// The whole document, UTF-8. Every text in the page is escaped: whatever is in
// it, nothing of it becomes markup.
std::string RenderGallery(const GalleryPage& page);

}  // namespace quern::cli
