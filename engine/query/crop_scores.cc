#include "engine/query/crop_scores.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/embed/embedder.h"
#include "engine/query/dot.h"

namespace quern {
namespace {

// Chosen on mosaics and scenes; engine/fine/README.md has what it brings.
constexpr double kWeight = 0.5;
constexpr double kContext = 0.1;  // Of the box's sides, on each side.

// A proposal and its crop's place among all crops.
struct Cut {
  size_t text = 0;
  size_t region = 0;
  size_t crop = 0;
};

bool IsSame(const Box& a, const Box& b) {
  return a.left == b.left && a.top == b.top && a.right == b.right &&
         a.bottom == b.bottom;
}

// The places of the `depth` best regions.
std::vector<size_t> BestOf(const std::vector<GroundedRegion>& regions,
                           int64_t depth) {
  std::vector<size_t> order(regions.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return regions[a].score > regions[b].score;
  });
  order.resize(std::min(order.size(), static_cast<size_t>(depth)));
  return order;
}

struct Plan {
  std::vector<Box> boxes;  // Each once.
  std::vector<Cut> cuts;
};

Plan PlanCuts(const std::vector<TextProposals>& proposals, int64_t depth) {
  Plan plan;
  for (size_t text = 0; text < proposals.size(); ++text) {
    for (const size_t region : BestOf(proposals[text].regions, depth)) {
      const Box& box = proposals[text].regions[region].box;
      const auto same =
          std::find_if(plan.boxes.begin(), plan.boxes.end(),
                       [&](const Box& other) { return IsSame(box, other); });
      plan.cuts.push_back(
          {.text = text,
           .region = region,
           .crop = static_cast<size_t>(same - plan.boxes.begin())});
      if (same == plan.boxes.end()) plan.boxes.push_back(box);
    }
  }
  return plan;
}

absl::Status AddScores(const Plan& plan,
                       const std::vector<absl::StatusOr<Embedded>>& crops,
                       std::vector<TextProposals>& proposals) {
  for (const Cut& cut : plan.cuts) {
    const absl::StatusOr<Embedded>& crop = crops[cut.crop];
    if (!crop.ok()) return crop.status();
    TextProposals& text = proposals[cut.text];
    text.regions[cut.region].score +=
        kWeight * Dot(crop->embedding, text.embedding);
  }
  return absl::OkStatus();
}

}  // namespace

Image Crop(const Image& picture, const Box& box) {
  // From pixel `first` up to `last`, at least one.
  const auto range = [](double from, double to, int64_t side) {
    const double margin = kContext * (to - from);
    const auto pixel = [&](double share) {
      return std::lround(share * static_cast<double>(side));
    };
    const int64_t first =
        std::clamp<int64_t>(pixel(from - margin), 0, side - 1);
    return std::pair(first,
                     std::clamp<int64_t>(pixel(to + margin), first + 1, side));
  };
  const auto [left, right] = range(box.left, box.right, picture.width);
  const auto [top, bottom] = range(box.top, box.bottom, picture.height);
  Image crop{.width = right - left, .height = bottom - top};
  crop.rgb.reserve(3 * crop.width * crop.height);
  for (int64_t row = top; row < bottom; ++row) {
    const auto line = picture.rgb.begin() + 3 * (row * picture.width);
    crop.rgb.insert(crop.rgb.end(), line + 3 * left, line + 3 * right);
  }
  return crop;
}

void AddCropScores(const Engine& engine, const RequestContext& context,
                   const std::shared_ptr<const Model>& model,
                   const std::shared_ptr<const Image>& picture, int64_t depth,
                   std::vector<TextProposals>& proposals,
                   std::function<void(const absl::Status&)> done) {
  Plan plan = PlanCuts(proposals, depth);
  std::vector<EmbedInput> crops;
  crops.reserve(plan.boxes.size());
  for (const Box& box : plan.boxes) {
    crops.emplace_back(ImageInput{
        .pixels = std::make_shared<const Image>(Crop(*picture, box))});
  }
  engine.embedder().Embed(
      context, model, crops, {},
      [plan = std::move(plan), &proposals,
       done = std::move(done)](std::vector<absl::StatusOr<Embedded>> embedded) {
        done(AddScores(plan, embedded, proposals));
      });
}

}  // namespace quern
