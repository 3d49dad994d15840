#include "client/cli/pairwise_sum.h"

#include <array>
#include <cstddef>

namespace quern::cli {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBlock = 128;

// Of kLanes to kBlock values.
double SumBlock(absl::Span<const double> values) {
  std::array<double, kLanes> lanes = {};
  for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = values[lane];
  size_t i = kLanes;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += values[i + lane];
    }
  }
  double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
               ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  for (; i < values.size(); ++i) sum += values[i];
  return sum;
}

}  // namespace

double PairwiseSum(absl::Span<const double> values) {
  if (values.size() < kLanes) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum;
  }
  if (values.size() <= kBlock) return SumBlock(values);
  const size_t half = values.size() / 2 / kLanes * kLanes;
  return PairwiseSum(values.subspan(0, half)) +
         PairwiseSum(values.subspan(half));
}

double PairwiseMean(absl::Span<const double> values) {
  return PairwiseSum(values) / static_cast<double>(values.size());
}

}  // namespace quern::cli
