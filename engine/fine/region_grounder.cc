#include "engine/fine/region_grounder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/fine/best_box.h"
#include "engine/fine/cosine_map.h"
#include "engine/fine/overlap.h"
#include "engine/fine/score_map.h"
#include "engine/fine/suppression.h"

namespace quern {
namespace {

// Chosen on mosaics and scenes; see models/quern_lite/MODEL_CARD.md.
constexpr int kPeaks = 6;
// Where a relation is to choose: the thing need not be at one of the best.
constexpr int kRelationPeaks = 10;
constexpr int64_t kPeakReach = 1;  // Cells round a peak that are none.
constexpr double kCost = 0.4;      // Deviations a cell must be worth.
constexpr double kAreaPower = 0.25;
constexpr int64_t kFiner = 2;  // Resolution of the last step.
// Of the softmax over candidates, in deviations of the map.
constexpr double kTemperature = 0.6;
// Of the subject's, where its relation counts too: cells tell what two things
// of a kind have in common, the relation tells them apart.
constexpr double kRelationTemperature = 2;
constexpr double kMinSupport = 1e-6;
constexpr double kTiny = 1e-9;

// Every score averaged with its eight neighbours; at the border those that are
// missing are the border's own.
ScoreMap Smoothed(const ScoreMap& map) {
  ScoreMap smooth{.height = map.height, .width = map.width};
  smooth.scores.reserve(map.scores.size());
  for (int64_t row = 0; row < map.height; ++row) {
    for (int64_t column = 0; column < map.width; ++column) {
      float sum = 0;
      for (const int64_t down : {-1, 0, 1}) {
        for (const int64_t across : {-1, 0, 1}) {
          sum += map.at(std::clamp<int64_t>(row + down, 0, map.height - 1),
                        std::clamp<int64_t>(column + across, 0, map.width - 1));
        }
      }
      smooth.scores.push_back(sum / 9);
    }
  }
  return smooth;
}

// What gives each row length one; 0 for a row of zeros.
std::vector<float> InverseNorms(const MatrixView& rows) {
  std::vector<float> inverse(rows.rows);
  for (int64_t i = 0; i < rows.rows; ++i) {
    const double squares = SquaredNorm(rows.row(i));
    if (squares > 0) inverse[i] = static_cast<float>(1 / std::sqrt(squares));
  }
  return inverse;
}

// The rows, taken with length one, less their mean.
Matrix Centred(const MatrixView& cells) {
  const std::vector<float> scales = InverseNorms(cells);
  std::vector<float> less_mean(cells.columns);
  for (int64_t i = 0; i < cells.rows; ++i) {
    AddScaled(cells.row(i), -scales[i] / static_cast<float>(cells.rows),
              absl::MakeSpan(less_mean));
  }
  Matrix rows(cells.rows, cells.columns);
  for (int64_t i = 0; i < cells.rows; ++i) {
    std::copy(less_mean.begin(), less_mean.end(), rows.row(i).begin());
    AddScaled(cells.row(i), scales[i], rows.row(i));
  }
  return rows;
}

// To a mean of 0 and a deviation of 1; a flat map to all 0.
void Standardise(ScoreMap& map) {
  const ScoreMoments moments = MomentsOf(map.scores);
  for (float& score : map.scores) {
    score = static_cast<float>((score - moments.mean) /
                               (moments.deviation + kTiny));
  }
}

// The best cells, none within kPeakReach of a better one.
std::vector<int64_t> Peaks(const ScoreMap& map, int max_peaks) {
  std::vector<bool> is_taken(map.scores.size());
  std::vector<int64_t> peaks;
  for (int i = 0; i < max_peaks; ++i) {
    int64_t best = -1;
    for (int64_t cell = 0; cell < map.height * map.width; ++cell) {
      if (is_taken[cell]) continue;
      if (best < 0 || map.scores[cell] > map.scores[best]) best = cell;
    }
    if (best < 0) break;
    peaks.push_back(best);
    const int64_t row = best / map.width;
    const int64_t column = best % map.width;
    for (int64_t y = std::max<int64_t>(0, row - kPeakReach);
         y <= std::min(map.height - 1, row + kPeakReach); ++y) {
      for (int64_t x = std::max<int64_t>(0, column - kPeakReach);
           x <= std::min(map.width - 1, column + kPeakReach); ++x) {
        is_taken[y * map.width + x] = true;
      }
    }
  }
  return peaks;
}

// How well the cells, with their neighbours, fit a direction of any length.
ScoreMap MapOf(const MatrixView& cells, const GridView& grid,
               absl::Span<const float> direction) {
  ScoreMap map{.height = grid.height, .width = grid.width};
  map.scores.resize(grid.height * grid.width);
  CosineMap(cells, direction, absl::MakeSpan(map.scores));
  return Smoothed(map);
}

// Step 4 of the class comment, of boxes on a map and, with their edges between
// cells, on one kFiner times as fine.
class BoxWorth {
 public:
  BoxWorth(int64_t height, int64_t width) {
    const int64_t largest = height * width * kFiner * kFiner;
    costs_.reserve(largest + 1);
    for (int64_t area = 0; area <= largest; ++area) {
      costs_.push_back(
          std::pow(static_cast<double>(area) / (kFiner * kFiner), kAreaPower));
    }
  }

  // `sums` are of a map with kCost taken off, at `scale` (1 or kFiner) cells
  // of it per cell of the grid and side.
  double Of(const IntegralImage& sums, const CellBox& box,
            int64_t scale) const {
    const int64_t finer = kFiner / scale;
    return sums.Sum(box) / static_cast<double>(scale * scale) /
           costs_[box.area() * finer * finer];
  }

 private:
  std::vector<double> costs_;  // By the area in cells of the finer map.
};

CellBox BoxRound(const ScoreMap& map, const BoxWorth& box_worth, int64_t peak) {
  const IntegralImage sums(map, kCost);
  const int64_t row = peak / map.width;
  const int64_t column = peak % map.width;
  CellBox best;
  double best_worth = std::numeric_limits<double>::lowest();
  for (int64_t top = 0; top <= row; ++top) {
    for (int64_t bottom = row + 1; bottom <= map.height; ++bottom) {
      for (int64_t left = 0; left <= column; ++left) {
        for (int64_t right = column + 1; right <= map.width; ++right) {
          const CellBox box = {
              .left = left, .top = top, .right = right, .bottom = bottom};
          const double worth = box_worth.Of(sums, box, 1);
          if (worth <= best_worth) continue;
          best_worth = worth;
          best = box;
        }
      }
    }
  }
  return best;
}

// The box of cells with its edges moved on the finer map.
Box TightBox(const ScoreMap& map, const BoxWorth& box_worth,
             const CellBox& cells) {
  const ScoreMap finer = Upsampled(map, kFiner);
  const IntegralImage sums(finer, kCost);
  const CellBox start = {.left = cells.left * kFiner,
                         .top = cells.top * kFiner,
                         .right = cells.right * kFiner,
                         .bottom = cells.bottom * kFiner};
  return ToBox(Refine(start, finer.height, finer.width,
                      [&](const CellBox& box) {
                        return box_worth.Of(sums, box, kFiner);
                      }),
               finer.height, finer.width);
}

// The cells of which at least half are in the box, at least one.
CellBox CellsOf(const Box& box, int64_t height, int64_t width) {
  const auto cell = [](float share, int64_t side) {
    return static_cast<int64_t>(
        std::lround(double{share} * static_cast<double>(side)));
  };
  CellBox cells;
  cells.left = std::clamp<int64_t>(cell(box.left, width), 0, width - 1);
  cells.top = std::clamp<int64_t>(cell(box.top, height), 0, height - 1);
  cells.right =
      std::clamp<int64_t>(cell(box.right, width), cells.left + 1, width);
  cells.bottom =
      std::clamp<int64_t>(cell(box.bottom, height), cells.top + 1, height);
  return cells;
}

GroundedRegion Describe(const IntegralImage& sums, const ScoreMoments& moments,
                        float best, float peak, const Box& box) {
  const CellBox cells = CellsOf(box, sums.height(), sums.width());
  const auto within = static_cast<double>(cells.area());
  const double outside =
      static_cast<double>(sums.height() * sums.width()) - within;
  const double sum = sums.Sum(cells);
  double contrast = sum / within;
  if (outside > 0) contrast -= (sums.Total() - sum) / outside;
  return {.box = box,
          .score = peak + contrast,
          .features = {.peak = peak,
                       .mean = moments.mean,
                       .deviation = moments.deviation,
                       .best = best,
                       .inside = sum / within}};
}

double TemperatureOf(const GroundedRegion& region, double deviations) {
  return deviations * region.features.deviation + kTiny;
}

// By the softmax of the scores, which add up to 1.
std::vector<PlaceCandidate> Probabilities(
    absl::Span<const GroundedRegion> regions) {
  double best = std::numeric_limits<double>::lowest();
  for (const GroundedRegion& region : regions) {
    best = std::max(best, region.score);
  }
  std::vector<PlaceCandidate> places;
  places.reserve(regions.size());
  double total = 0;
  for (const GroundedRegion& region : regions) {
    const double weight =
        std::exp((region.score - best) / TemperatureOf(region, kTemperature));
    places.push_back({.box = region.box, .probability = weight});
    total += weight;
  }
  for (PlaceCandidate& place : places) place.probability /= total;
  return places;
}

}  // namespace

RegionGrounder::RegionGrounder(const GridView& grid)
    : grid_(grid),
      centred_(Centred(grid.cells)),
      scales_(InverseNorms(centred_.view())) {}

ScoreMap RegionGrounder::LooksLike(int64_t cell) const {
  std::vector<float> look(centred_.columns());
  const int64_t row = cell / grid_.width;
  const int64_t column = cell % grid_.width;
  for (const int64_t down : {-1, 0, 1}) {
    for (const int64_t across : {-1, 0, 1}) {
      const int64_t y = std::clamp<int64_t>(row + down, 0, grid_.height - 1);
      const int64_t x =
          std::clamp<int64_t>(column + across, 0, grid_.width - 1);
      const int64_t neighbour = y * grid_.width + x;
      AddScaled(centred_.row(neighbour), scales_[neighbour],
                absl::MakeSpan(look));
    }
  }
  return MapOf(centred_.view(), grid_, look);
}

std::vector<GroundedRegion> RegionGrounder::Propose(
    absl::Span<const float> embedding, bool is_related) const {
  const ScoreMap text = MapOf(grid_.cells, grid_, embedding);
  const ScoreMoments moments = MomentsOf(text.scores);
  ScoreMap standard = text;
  Standardise(standard);
  const IntegralImage sums(text);
  const float best = *std::max_element(text.scores.begin(), text.scores.end());

  const BoxWorth worth(grid_.height, grid_.width);
  std::vector<GroundedRegion> regions;
  for (const int64_t peak : Peaks(text, is_related ? kRelationPeaks : kPeaks)) {
    ScoreMap combined = LooksLike(peak);
    Standardise(combined);
    for (size_t i = 0; i < combined.scores.size(); ++i) {
      combined.scores[i] += standard.scores[i];
    }
    Standardise(combined);
    const Box box = TightBox(combined, worth, BoxRound(combined, worth, peak));
    regions.push_back(Describe(sums, moments, best, text.scores[peak], box));
  }
  return regions;
}

std::vector<GroundedRegion> RegionGrounder::Candidates(const PhraseQuery& query,
                                                       bool is_object) const {
  const bool has_relation = query.relation != SpatialRelation::kNone;
  std::vector<GroundedRegion> regions =
      query.proposals == nullptr
          ? Propose(query.embedding, has_relation || is_object)
          : *query.proposals;
  if (!has_relation) return regions;
  const std::vector<GroundedRegion> others =
      query.object == nullptr ? regions
                              : Candidates(*query.object, /*is_object=*/true);
  const std::vector<PlaceCandidate> objects = Probabilities(others);
  std::vector<Box> boxes;
  boxes.reserve(regions.size());
  for (const GroundedRegion& region : regions) boxes.push_back(region.box);
  const std::vector<double> support =
      RelationSupport(query.relation, boxes, objects);
  for (size_t i = 0; i < regions.size(); ++i) {
    // So that the softmax of the scores is the product of probabilities.
    regions[i].score += TemperatureOf(regions[i], kRelationTemperature) *
                        std::log(std::max(support[i], kMinSupport));
  }
  return regions;
}

std::vector<GroundedRegion> RegionGrounder::Ground(const PhraseQuery& query,
                                                   int64_t max_regions,
                                                   double nms_iou) const {
  const std::vector<GroundedRegion> regions =
      Candidates(query, /*is_object=*/false);
  std::vector<Scored<Box>> boxes;
  boxes.reserve(regions.size());
  for (const GroundedRegion& region : regions) {
    boxes.push_back({.where = region.box, .score = region.score});
  }
  std::vector<GroundedRegion> kept;
  for (const size_t i : Suppress(boxes, nms_iou, max_regions)) {
    kept.push_back(regions[i]);
    kept.back().features.pooled = Pooled(regions[i].box, query.embedding);
  }
  return kept;
}

double RegionGrounder::Pooled(const Box& box,
                              absl::Span<const float> embedding) const {
  const CellBox cells = CellsOf(box, grid_.height, grid_.width);
  std::vector<int64_t> rows;
  rows.reserve(cells.area());
  for (int64_t row = cells.top; row < cells.bottom; ++row) {
    for (int64_t column = cells.left; column < cells.right; ++column) {
      rows.push_back(row * grid_.width + column);
    }
  }
  return PooledCosine(grid_.cells, rows, embedding);
}

}  // namespace quern
