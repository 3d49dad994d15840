#include "engine/batch/batch_queue.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"

namespace quern {
namespace {

// A row without a deadline is due this long after its arrival, so that rows
// with deadlines do not pass it for ever.
constexpr absl::Duration kPatience = absl::Seconds(1);
// Weight of the newest batch in the smoothed time.
constexpr double kNewest = 0.2;
constexpr absl::Duration kLeastRetryDelay = absl::Milliseconds(10);

constexpr std::array<Lane, 2> kBothLanes = {Lane::kInteractive, Lane::kBulk};

size_t IndexOf(Lane lane) { return static_cast<size_t>(lane); }

Lane Other(Lane lane) {
  return lane == Lane::kBulk ? Lane::kInteractive : Lane::kBulk;
}

}  // namespace

absl::Status BatchQueue::Admit(const RequestContext& context, Lane lane,
                               int64_t rows, int64_t cost, absl::Time now) {
  const absl::Duration wait = PredictWait(lane);
  if (rows_ + rows > options_.max_queued_rows) {
    return Overloaded(
        absl::StrCat(rows_, " rows wait for the model and ", rows,
                     " more came; the limit is ", options_.max_queued_rows),
        std::max(wait, kLeastRetryDelay));
  }
  if (lane == Lane::kInteractive && wait > options_.max_wait) {
    return Overloaded(
        absl::StrCat("the model is busy for ", absl::FormatDuration(wait),
                     "; calls wait ", absl::FormatDuration(options_.max_wait),
                     " at most"),
        std::max(wait - options_.max_wait, kLeastRetryDelay));
  }
  const absl::Duration end = wait + TimeOf(cost);
  if (wait > absl::ZeroDuration() && now + end > context.deadline()) {
    return Overloaded(
        absl::StrCat("the model would be done in ", absl::FormatDuration(end),
                     ", after the deadline"),
        std::max(now + end - context.deadline(), kLeastRetryDelay));
  }
  rows_ += rows;
  queued_cost_[IndexOf(lane)] += cost;
  return absl::OkStatus();
}

void BatchQueue::Withdraw(Lane lane, int64_t rows, int64_t cost) {
  rows_ -= rows;
  queued_cost_[IndexOf(lane)] -= cost;
}

void BatchQueue::Add(absl::Span<BatchItem* const> items, absl::Time now) {
  for (BatchItem* item : items) {
    item->arrival = now;
    item->due = std::min(item->context->deadline(), now + kPatience);
    item->order = next_order_++;
    LineOf(item->lane, BucketOf(item->size)).insert(item);
  }
}

BatchQueue::Next BatchQueue::Take(absl::Time now, bool drain) {
  Next next;
  while (const BatchItem* first = ChooseFirst(now, drain)) {
    const Lane lane = first->lane;
    const int bucket = BucketOf(first->size);
    Fill(LineOf(lane, bucket), next);
    Fill(LineOf(Other(lane), bucket), next);
    for (int reach = 1; reach <= kReach && !next.batch.empty(); ++reach) {
      for (const int near : {bucket - reach, bucket + reach}) {
        if (near < 0 || near >= kBuckets) continue;
        Fill(LineOf(lane, near), next);
        Fill(LineOf(Other(lane), near), next);
      }
    }
    if (next.batch.empty()) continue;  // All of the bucket were abandoned.
    running_cost_ += CostOf(next.batch);
    return next;
  }
  next.look_again = absl::InfiniteFuture();
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    next.look_again = std::min(next.look_again, ReadyAt(bucket));
  }
  return next;
}

void BatchQueue::Ran(int64_t cost, absl::Duration duration) {
  running_cost_ -= cost;
  const absl::Duration newest = duration / cost;
  time_per_cost_ = time_per_cost_ == absl::ZeroDuration()
                       ? newest
                       : (1 - kNewest) * time_per_cost_ + kNewest * newest;
}

int64_t BatchQueue::CostOf(absl::Span<BatchItem* const> batch) {
  int64_t longest = 0;
  for (const BatchItem* item : batch) longest = std::max(longest, item->size);
  return longest * static_cast<int64_t>(batch.size());
}

absl::Duration BatchQueue::PredictWait(Lane lane) const {
  const int64_t bulk = queued_cost_[IndexOf(Lane::kBulk)];
  int64_t ahead = queued_cost_[IndexOf(Lane::kInteractive)];
  // Of what waits, bulk rows go ahead of interactive ones in their turns alone.
  ahead += lane == Lane::kBulk ? bulk : std::min(bulk, ahead / (kBulkTurn - 1));
  return TimeOf(running_cost_ + ahead) / options_.threads;
}

int BatchQueue::BucketOf(int64_t size) {
  constexpr int kSmallest = 4;
  if (size <= kSmallest) return 0;
  // The two bits below the highest one count the quarters of its octave.
  const auto last = static_cast<uint64_t>(size - 1);
  const int octave = static_cast<int>(std::bit_width(last)) - 3;
  const auto quarter = static_cast<int>((last >> octave) & 3);
  return std::min(1 + 4 * octave + quarter, kBuckets - 1);
}

BatchQueue::Line& BatchQueue::LineOf(Lane lane, int bucket) {
  return lines_[IndexOf(lane)][bucket];
}

const BatchQueue::Line& BatchQueue::LineOf(Lane lane, int bucket) const {
  return lines_[IndexOf(lane)][bucket];
}

int64_t BatchQueue::RowsIn(int bucket) const {
  int64_t rows = 0;
  for (Lane lane : kBothLanes) {
    rows += static_cast<int64_t>(LineOf(lane, bucket).size());
  }
  return rows;
}

absl::Time BatchQueue::ReadyAt(int bucket) const {
  if (RowsIn(bucket) == 0) return absl::InfiniteFuture();
  int64_t rows = 0;
  for (int near = std::max(bucket - kReach, 0);
       near <= std::min(bucket + kReach, kBuckets - 1); ++near) {
    rows += RowsIn(near);
  }
  if (rows >= options_.max_rows || options_.max_age <= absl::ZeroDuration()) {
    return absl::InfinitePast();
  }
  absl::Time oldest = absl::InfiniteFuture();
  for (Lane lane : kBothLanes) {
    for (const BatchItem* item : LineOf(lane, bucket)) {
      oldest = std::min(oldest, item->arrival);
    }
  }
  return oldest + options_.max_age;
}

const BatchItem* BatchQueue::ChooseFirst(absl::Time now, bool drain) {
  std::array<const BatchItem*, kLanes> first{};
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    if (!drain && ReadyAt(bucket) > now) continue;
    for (Lane lane : kBothLanes) {
      const Line& line = LineOf(lane, bucket);
      const BatchItem*& known = first[IndexOf(lane)];
      if (line.empty()) continue;
      if (known == nullptr || DueFirst()(*line.begin(), known)) {
        known = *line.begin();
      }
    }
  }
  const BatchItem* interactive = first[IndexOf(Lane::kInteractive)];
  const BatchItem* bulk = first[IndexOf(Lane::kBulk)];
  if (interactive == nullptr) return bulk;
  if (bulk == nullptr) return interactive;
  return ++contested_ % kBulkTurn == 0 ? bulk : interactive;
}

void BatchQueue::Fill(Line& line, Next& next) {
  while (!line.empty() &&
         static_cast<int64_t>(next.batch.size()) < options_.max_rows) {
    BatchItem* item = *line.begin();
    line.erase(line.begin());
    Withdraw(item->lane, 1, item->size);
    item->status = item->context->Check("encode");
    (item->status.ok() ? next.batch : next.dropped).push_back(item);
  }
}

absl::Duration BatchQueue::TimeOf(int64_t cost) const {
  return time_per_cost_ * cost;
}

}  // namespace quern
