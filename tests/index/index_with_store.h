#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/index/sharded_index.h"
#include "tests/support/status_matchers.h"

namespace quern {

// A ShardedIndex with the store that it is beside: a map that has every write
// before the index.
class IndexWithStore final : public VectorIndex {
 public:
  explicit IndexWithStore(ShardedIndexOptions options) {
    options.fields = {{.path = "n", .type = FieldType::kNumber}};
    options.reader =
        [this](
            absl::Span<const std::string> ids,
            const std::function<void(size_t, absl::Span<const float>)>& visit) {
          absl::MutexLock lock(&mutex_);
          for (size_t i = 0; i < ids.size(); ++i) {
            const auto found = vectors_.find(ids[i]);
            if (found != vectors_.end()) visit(i, found->second);
          }
          return absl::OkStatus();
        };
    index_ = ValueOrDie(ShardedIndex::Create(std::move(options)));
  }

  using VectorIndex::Search;
  using VectorIndex::Upsert;

  int64_t dimension() const override { return index_->dimension(); }
  int64_t size() const override { return index_->size(); }
  absl::Status Upsert(absl::Span<const std::string> ids, MatrixView vectors,
                      absl::Span<const FieldValues> fields) override {
    if (vectors.rows == static_cast<int64_t>(ids.size())) {
      absl::MutexLock lock(&mutex_);
      for (int64_t i = 0; i < vectors.rows; ++i) {
        vectors_[ids[i]].assign(vectors.row(i).begin(), vectors.row(i).end());
      }
    }
    return index_->Upsert(ids, vectors, fields);
  }
  absl::Status Remove(absl::Span<const std::string> ids) override {
    {
      absl::MutexLock lock(&mutex_);
      for (const std::string& id : ids) vectors_.erase(id);
    }
    return index_->Remove(ids);
  }
  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options, SearchStats* stats) const override {
    return index_->Search(context, queries, options, stats);
  }
  int64_t memory_bytes() const override { return index_->memory_bytes(); }
  std::vector<ShardInfo> shards() const override { return index_->shards(); }
  bool Contains(const std::string& id) const override {
    return index_->Contains(id);
  }
  absl::Status LinkFiles(
      const RequestContext& context, const std::string& directory,
      const std::function<absl::Status()>& then) const override {
    return index_->LinkFiles(context, directory, then);
  }
  absl::Status Optimize(const RequestContext& context,
                        const std::function<void(float)>& progress) override {
    return index_->Optimize(context, progress);
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<float>> vectors_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ShardedIndex> index_;
};

inline void Optimize(VectorIndex& index) {
  const RealClock clock;
  const RequestContext context(&clock, "test");
  EXPECT_THAT(index.Optimize(context, [](float) {}), IsOk());
}

}  // namespace quern
