#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quern::cli {

// One direction of retrieval over a test set.
struct DirectionMetrics {
  double recall_at_1 = 0;   // Percent.
  double recall_at_5 = 0;   // Percent.
  double recall_at_10 = 0;  // Percent.
  // Median of the ranks, the mean of the middle two where their number is even.
  double median_rank = 0;
};

struct RetrievalMetrics {
  DirectionMetrics text_to_image;
  DirectionMetrics image_to_text;
  double recall_sum = 0;  // Of the six recalls, at most 600.
};

// Ranks (from 1) of the right answers, in order of the queries.
struct RetrievalRanks {
  std::vector<int64_t> text_to_image;  // One per caption.
  std::vector<int64_t> image_to_text;  // One per image.
};

// Scores every caption against every image by dot product in float.
//
// A caption's rank is 1 + the number of other images that score as high or
// higher. An image's rank is that of its best caption: 1 + the number of other
// images' captions that score as high or higher than it. So ties count against
// the query whatever the order of the data: an encoder that answers the same to
// everything ranks last, not first.
//
//   images    rows x dimension, row-major
//   captions  rows x dimension, row-major
//   image_of_caption  for each caption its image's row; each image has one or
//                     more captions
// INVALID_ARGUMENT when the shapes do not fit each other or nothing is given.
absl::StatusOr<RetrievalRanks> RankAll(
    absl::Span<const float> images, absl::Span<const float> captions,
    int64_t dimension, absl::Span<const int64_t> image_of_caption);

// Of one direction; `ranks` is not empty.
DirectionMetrics Summarize(std::vector<int64_t> ranks);

RetrievalMetrics Summarize(const RetrievalRanks& ranks);

}  // namespace quern::cli
