#include "engine/index/device_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/status_macros.h"

namespace quern {
namespace {

// Rows beyond k that are asked for at first: those within the device's error.
constexpr int64_t kSlack = 32;
// Comparing a larger share of the rows again is as slow as comparing all.
constexpr int64_t kMinRowsPerResult = 4;
// More rows each time.
constexpr int64_t kGrowth = 4;

int64_t FirstRows(const DeviceSegment& segment,
                  const DeviceSearchOptions& options) {
  const int64_t wanted = options.k + options.k / 4 + kSlack;
  const double rows = std::ceil(static_cast<double>(wanted) / options.share);
  return static_cast<int64_t>(
      std::min(rows, static_cast<double>(segment.shape().rows)));
}

// Above what no row can be that a device left out, whose last row has `score`.
float HighestLeft(float score, const EncodedQuery& query,
                  const SearchedPart& searched) {
  const DeviceSegment& on_device = *searched.part.device;
  const float norm = query.norm();
  // Products with it are below what floats hold.
  if (norm < std::numeric_limits<float>::min()) {
    return std::numeric_limits<float>::infinity();
  }
  CodeRows worst = searched.part.segment->codes();
  worst.scales = &on_device.worst_scale();
  return score + norm * on_device.score_error() +
         query.ErrorBound(worst, 0, searched.metric == Metric::kCosine,
                          searched.sigmas);
}

// One query's turn: adds the wanted ones of `rows`, and returns whether these
// are all that matter.
absl::StatusOr<bool> AddRows(const RequestContext& context,
                             const SearchedPart& searched,
                             const EncodedQuery& query,
                             const DeviceSearchOptions& options,
                             absl::Span<const int64_t> rows,
                             absl::Span<const float> scores,
                             Candidates& candidates) {
  const IndexPart& part = searched.part;
  std::vector<uint32_t> wanted;
  wanted.reserve(rows.size());
  size_t found = 0;
  for (; found < rows.size() && rows[found] >= 0; ++found) {
    if (rows[found] >= part.rows) {
      return absl::UnavailableError("a device gave a row that is not there");
    }
    if (searched.IsWanted(rows[found])) {
      wanted.push_back(static_cast<uint32_t>(rows[found]));
    }
  }
  QUERN_RETURN_IF_ERROR(ScanRows(context, searched, query, wanted, candidates));
  if (static_cast<int64_t>(found) == part.rows) return true;
  if (found < rows.size()) {
    // That is all that those lists hold; others may hold what is missing.
    return options.lists == part.device->shape().lists ||
           static_cast<int64_t>(wanted.size()) >= options.k;
  }
  return HighestLeft(scores.back(), query, searched) < candidates.threshold();
}

}  // namespace

bool DeviceCanSearch(const DeviceSegment& segment,
                     const DeviceSearchOptions& options) {
  if (options.lists > kMaxDeviceLists || options.share <= 0) return false;
  return FirstRows(segment, options) <=
         std::min(kMaxDeviceResults, segment.shape().rows / kMinRowsPerResult);
}

absl::StatusOr<std::vector<size_t>> SearchDevice(
    const RequestContext& context, const SearchedPart& searched,
    absl::Span<const EncodedQuery> queries, const DeviceSearchOptions& options,
    absl::Span<Candidates> candidates) {
  const IndexPart& part = searched.part;
  std::vector<size_t> waiting(queries.size());
  std::iota(waiting.begin(), waiting.end(), size_t{0});
  const auto search = [&](int64_t count) -> absl::Status {
    std::vector<float> values;
    for (const size_t q : waiting) {
      values.insert(values.end(), queries[q].vector().begin(),
                    queries[q].vector().end());
    }
    QUERN_ASSIGN_OR_RETURN(
        const DeviceHits hits,
        part.device->Search(context,
                            {.data = values.data(),
                             .rows = static_cast<int64_t>(waiting.size()),
                             .columns = part.device->shape().dimension},
                            count, options.lists));
    std::vector<size_t> left;
    for (size_t i = 0; i < waiting.size(); ++i) {
      const size_t begin = i * static_cast<size_t>(count);
      const auto some = static_cast<size_t>(count);
      QUERN_ASSIGN_OR_RETURN(
          const bool complete,
          AddRows(context, searched, queries[waiting[i]], options,
                  absl::MakeConstSpan(hits.rows).subspan(begin, some),
                  absl::MakeConstSpan(hits.scores).subspan(begin, some),
                  candidates[waiting[i]]));
      if (!complete) left.push_back(waiting[i]);
    }
    waiting = std::move(left);
    return absl::OkStatus();
  };
  int64_t count = FirstRows(*part.device, options);
  const int64_t most = std::min(kMaxDeviceResults, part.rows);
  while (!waiting.empty()) {
    const absl::Status status = search(count);
    if (!status.ok()) {
      for (Candidates& of_query : candidates) of_query.Forget(searched.number);
      return status;
    }
    // The rows that were found come again.
    for (const size_t q : waiting) candidates[q].Forget(searched.number);
    if (count == most) break;
    count = std::min(count * kGrowth, most);
  }
  return waiting;
}

}  // namespace quern
