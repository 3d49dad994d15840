#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/index/vector_index.h"

namespace quern {

// The latest queries of each source, for calibration: those of another
// modality lie elsewhere than the stored vectors, and many of one source would
// crowd out the few of another. Those that are equal to the bit count once.
// Thread-safe.
class QuerySample {
 public:
  // Of each source.
  static constexpr size_t kKept = 256;

  explicit QuerySample(int64_t dimension) : dimension_(dimension) {}

  // Of more than kKept the last ones stay. Queries are left out rather than
  // waited for, if another thread is adding some.
  void Add(QuerySource source, const Matrix& queries);

  // A matrix of `dimension` columns for each source that has queries.
  std::vector<Matrix> Queries() const;
  // Of the source that has the most.
  size_t largest() const;

  // Grows when a query is added.
  uint64_t version() const;

  // What Parse() reads; README.md describes it.
  std::string Bytes() const;
  // Replaces all queries. Errors: kDataLoss: damaged, of another format or
  // dimension; the sample is as it was.
  absl::Status Parse(absl::Span<const uint8_t> bytes);

 private:
  class Ring {
   public:
    // False: it is there.
    bool Add(absl::Span<const float> query);
    // The oldest first.
    const std::deque<std::vector<float>>& queries() const { return queries_; }

   private:
    std::deque<std::vector<float>> queries_;
    absl::flat_hash_set<absl::string_view> known_;  // Their bytes.
  };

  const int64_t dimension_;
  mutable absl::Mutex mutex_;
  std::array<Ring, kQuerySources> rings_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quern
