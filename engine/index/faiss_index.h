#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/node_hash_map.h"
#include "absl/synchronization/mutex.h"

#include "engine/index/vector_index.h"

namespace quern {

struct FaissIndexOptions {
  int64_t dimension = 0;  // >= 1.
  Metric metric = Metric::kCosine;
};

// Exact search: every vector is compared with every query by FAISS's inner
// product, on the caller's thread alone. Scores of equal vectors are equal, in
// whatever row they lie and however many queries come together.
//
// Vectors must be finite with a norm of at most 1e19, so that no score
// overflows; for kCosine they must not be zero. Searches run side by side;
// writers wait for the searches that run. Thread-safe.
class FaissIndex final : public VectorIndex {
 public:
  // Errors: kInvalidArgument for a dimension below 1.
  static absl::StatusOr<std::unique_ptr<FaissIndex>> Create(
      const FaissIndexOptions& options);

  int64_t dimension() const override { return options_.dimension; }
  int64_t size() const override;
  absl::Status Upsert(absl::Span<const std::string> ids,
                      MatrixView vectors) override;
  absl::Status Remove(absl::Span<const std::string> ids) override;
  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options) const override;
  int64_t memory_bytes() const override;

 private:
  // The best rows of one query so far.
  class Best;

  explicit FaissIndex(const FaissIndexOptions& options) : options_(options) {}

  float* RowData(int64_t row) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  int64_t rows() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return static_cast<int64_t>(ids_.size());
  }
  // Makes room for `more` rows, so that adding them does not fail half-way.
  void Reserve(int64_t more) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The row of `id`, a new one at the end where it has none.
  int64_t FindOrAddRow(const std::string& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The last row takes the place of `id`'s.
  void RemoveRow(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Compares all rows with all queries.
  absl::Status Compare(const RequestContext& context, MatrixView queries,
                       std::vector<Best>& best) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const FaissIndexOptions options_;

  mutable absl::Mutex mutex_;
  // Row r is row r % kBlockRows of block r / kBlockRows; each block is
  // kBlockRows x dimension. Rows are dense: 0 .. size() - 1.
  std::vector<std::unique_ptr<float[]>> blocks_ ABSL_GUARDED_BY(mutex_);
  absl::node_hash_map<std::string, int64_t> row_of_ ABSL_GUARDED_BY(mutex_);
  // Id of each row: keys of `row_of_`, which stay where they are.
  std::vector<const std::string*> ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
