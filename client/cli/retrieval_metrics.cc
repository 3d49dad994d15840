#include "client/cli/retrieval_metrics.h"

#include <algorithm>
#include <array>
#include <limits>

#include "absl/strings/str_cat.h"

namespace quern::cli {
namespace {

// Sums in independent lanes, which the compiler turns into vector instructions;
// one pair of vectors always gives the same bits, so comparing scores is safe.
float Dot(absl::Span<const float> a, absl::Span<const float> b) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lanes = {};
  size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += a[i + lane] * b[i + lane];
    }
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

absl::Status CheckShapes(size_t images_size, size_t captions_size,
                         int64_t dimension,
                         absl::Span<const int64_t> image_of_caption) {
  if (dimension < 1 || images_size == 0 || captions_size == 0) {
    return absl::InvalidArgumentError("no images or no captions to rank");
  }
  const auto width = static_cast<size_t>(dimension);
  if (images_size % width != 0 ||
      captions_size != image_of_caption.size() * width) {
    return absl::InvalidArgumentError(
        absl::StrCat("embeddings of ", images_size, " and ", captions_size,
                     " numbers do not fit dimension ", dimension, " and ",
                     image_of_caption.size(), " captions"));
  }
  std::vector<bool> has_caption(images_size / width, false);
  for (const int64_t image : image_of_caption) {
    if (image < 0 || static_cast<size_t>(image) >= has_caption.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a caption belongs to image ", image, " of ", has_caption.size()));
    }
    has_caption[static_cast<size_t>(image)] = true;
  }
  const auto bare = std::find(has_caption.begin(), has_caption.end(), false);
  if (bare != has_caption.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("image ", bare - has_caption.begin(), " has no caption"));
  }
  return absl::OkStatus();
}

double Percent(int64_t part, size_t whole) {
  return 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

double Median(std::vector<int64_t>& ranks) {
  std::sort(ranks.begin(), ranks.end());
  const size_t middle = ranks.size() / 2;
  if (ranks.size() % 2 == 1) return static_cast<double>(ranks[middle]);
  return static_cast<double>(ranks[middle - 1] + ranks[middle]) / 2;
}

double SumOfRecalls(const DirectionMetrics& direction) {
  return direction.recall_at_1 + direction.recall_at_5 + direction.recall_at_10;
}

}  // namespace

absl::StatusOr<RetrievalRanks> RankAll(
    absl::Span<const float> images, absl::Span<const float> captions,
    int64_t dimension, absl::Span<const int64_t> image_of_caption) {
  if (absl::Status status = CheckShapes(images.size(), captions.size(),
                                        dimension, image_of_caption);
      !status.ok()) {
    return status;
  }
  const auto width = static_cast<size_t>(dimension);
  const size_t image_count = images.size() / width;
  const size_t caption_count = image_of_caption.size();
  const auto image_row = [&](size_t i) {
    return images.subspan(i * width, width);
  };
  const auto caption_row = [&](size_t i) {
    return captions.subspan(i * width, width);
  };

  std::vector<float> own_score(caption_count);
  std::vector<float> best_own_score(image_count,
                                    -std::numeric_limits<float>::infinity());
  for (size_t c = 0; c < caption_count; ++c) {
    const auto own = static_cast<size_t>(image_of_caption[c]);
    own_score[c] = Dot(caption_row(c), image_row(own));
    best_own_score[own] = std::max(best_own_score[own], own_score[c]);
  }

  RetrievalRanks ranks;
  ranks.text_to_image.assign(caption_count, 1);
  ranks.image_to_text.assign(image_count, 1);
  for (size_t c = 0; c < caption_count; ++c) {
    for (size_t i = 0; i < image_count; ++i) {
      if (i == static_cast<size_t>(image_of_caption[c])) continue;
      const float score = Dot(caption_row(c), image_row(i));
      // Not "score >= own": a score that is not a number counts against, too.
      ranks.text_to_image[c] += score < own_score[c] ? 0 : 1;
      ranks.image_to_text[i] += score < best_own_score[i] ? 0 : 1;
    }
  }
  return ranks;
}

DirectionMetrics Summarize(std::vector<int64_t> ranks) {
  const auto recall_at = [&ranks](int64_t k) {
    return Percent(std::count_if(ranks.begin(), ranks.end(),
                                 [k](int64_t rank) { return rank <= k; }),
                   ranks.size());
  };
  DirectionMetrics metrics;
  metrics.recall_at_1 = recall_at(1);
  metrics.recall_at_5 = recall_at(5);
  metrics.recall_at_10 = recall_at(10);
  metrics.median_rank = Median(ranks);
  return metrics;
}

RetrievalMetrics Summarize(const RetrievalRanks& ranks) {
  RetrievalMetrics metrics;
  metrics.text_to_image = Summarize(ranks.text_to_image);
  metrics.image_to_text = Summarize(ranks.image_to_text);
  metrics.recall_sum =
      SumOfRecalls(metrics.text_to_image) + SumOfRecalls(metrics.image_to_text);
  return metrics;
}

}  // namespace quern::cli
