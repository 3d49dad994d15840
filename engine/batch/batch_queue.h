#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/base/lane.h"
#include "engine/base/request_context.h"

namespace quern {

// One row that waits to be run by a tower.
struct BatchItem {
  // Its call's; outlives the item.
  const RequestContext* context = nullptr;
  Lane lane = Lane::kInteractive;
  // What it costs to run: tokens of a text, 1 for a picture. A batch costs its
  // rows times its longest row. >= 1.
  int64_t size = 1;

  // What became of it, set by Batcher before it hands the item back.
  absl::Status status;

  // Set by BatchQueue::Add().
  absl::Time arrival;
  absl::Time due;  // Earlier goes first.
  int64_t order = 0;
};

struct BatchOptions {
  int64_t max_rows = 16;  // Of one batch; >= 1.
  // How long a batch that is not full waits for more rows. Zero: a free thread
  // takes what is there, and batches grow while all threads are busy.
  absl::Duration max_age = absl::ZeroDuration();
  int64_t threads = 1;  // Batches run at the same time; >= 1.
  // An interactive call that would wait longer is refused.
  absl::Duration max_wait = absl::Milliseconds(500);
  int64_t max_queued_rows = 4096;  // >= 1.
  // What a row of size 1 takes, until batches have been measured. Zero:
  // unknown, and no call is refused for its wait.
  absl::Duration first_time_per_cost = absl::ZeroDuration();
};

// Which rows run next: the rules of batching, without threads or clock. Rows of
// a batch are of similar size, those nearest to the first one's before others,
// none of more than twice or less than half of it, roughly (see BucketOf()). In
// each lane the row that is due first goes first: its deadline, or a second
// after its arrival. While both lanes wait, every fourth batch begins with a
// bulk row; rows of the other lane fill what is free.
//
// A row is admitted before it is made: a picture is refused before it is
// decoded. From then on it counts as waiting.
//
// Not thread-safe. Items must outlive their time in the queue.
class BatchQueue {
 public:
  explicit BatchQueue(const BatchOptions& options)
      : options_(options), time_per_cost_(options.first_time_per_cost) {}

  // Lets `rows` rows of one call in, which cost `cost` together, or none.
  // Errors:
  //   kResourceExhausted  the queue is full; an interactive call would wait
  //                       longer than max_wait; a call would end after its
  //                       deadline. With a retry delay.
  absl::Status Admit(const RequestContext& context, Lane lane, int64_t rows,
                     int64_t cost, absl::Time now);
  // Rows that were admitted will not come.
  void Withdraw(Lane lane, int64_t rows, int64_t cost);
  // Rows that were admitted have come; at the cost that was announced.
  void Add(absl::Span<BatchItem* const> items, absl::Time now);

  struct Next {
    std::vector<BatchItem*> batch;  // To be run now; may be empty.
    // Nobody waits for these any more; their status says why.
    std::vector<BatchItem*> dropped;
    absl::Time look_again;  // When the batch is empty.
  };
  // `drain`: a batch does not wait for more rows.
  Next Take(absl::Time now, bool drain);

  // A batch of this cost that Take() gave has run.
  void Ran(int64_t cost, absl::Duration duration);

  // Rows times the longest.
  static int64_t CostOf(absl::Span<BatchItem* const> batch);

  // Until a row that comes to this lane now would begin.
  absl::Duration PredictWait(Lane lane) const;

  // Admitted, and not taken yet.
  int64_t rows() const { return rows_; }

 private:
  static constexpr int kLanes = 2;
  static constexpr int kBuckets = 40;

  struct DueFirst {
    bool operator()(const BatchItem* a, const BatchItem* b) const {
      return a->due != b->due ? a->due < b->due : a->order < b->order;
    }
  };
  using Line = std::set<BatchItem*, DueFirst>;

  // Sizes to 4, 5, 6, 7, 8, to 10, 12, 14, 16, to 20 and so on: four buckets
  // from a size to its double.
  static int BucketOf(int64_t size);
  // How far from its first row's bucket a batch reaches: to the double.
  static constexpr int kReach = 4;

  Line& LineOf(Lane lane, int bucket);
  const Line& LineOf(Lane lane, int bucket) const;
  int64_t RowsIn(int bucket) const;
  // When a batch of this bucket may begin; InfiniteFuture without rows.
  absl::Time ReadyAt(int bucket) const;
  // The row that a batch begins with, of the rows whose buckets are ready.
  const BatchItem* ChooseFirst(absl::Time now, bool drain);
  // Moves rows of a line into `next` until its batch is full.
  void Fill(Line& line, Next& next);
  absl::Duration TimeOf(int64_t cost) const;

  const BatchOptions options_;
  std::array<std::array<Line, kBuckets>, kLanes> lines_;
  std::array<int64_t, kLanes> queued_cost_{};  // Of `rows_`.
  int64_t running_cost_ = 0;
  int64_t rows_ = 0;
  int64_t next_order_ = 0;
  int64_t contested_ = 0;         // Batches taken while both lanes waited.
  absl::Duration time_per_cost_;  // Smoothed.
};

}  // namespace quern
