#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/index/vector_index.h"

namespace quern {

// A VectorIndex over a map that compares everything in double precision, and
// asks Matches() of each item. Thread-safe.
class FakeVectorIndex : public VectorIndex {
 public:
  explicit FakeVectorIndex(int64_t dimension, Metric metric = Metric::kCosine)
      : dimension_(dimension), metric_(metric) {}

  using VectorIndex::Search;
  using VectorIndex::Upsert;

  int64_t dimension() const override { return dimension_; }

  int64_t size() const override {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(rows_.size());
  }

  absl::Status Upsert(absl::Span<const std::string> ids, MatrixView vectors,
                      absl::Span<const FieldValues> fields) override {
    if (vectors.rows != static_cast<int64_t>(ids.size()) ||
        (!fields.empty() && fields.size() != ids.size())) {
      return InvalidField("vectors", "must have one row per id");
    }
    QUERN_RETURN_IF_ERROR(Check(vectors, "vectors"));
    absl::MutexLock lock(&mutex_);
    for (int64_t i = 0; i < vectors.rows; ++i) {
      Row& row = rows_[ids[i]];
      row.vector.assign(vectors.row(i).begin(), vectors.row(i).end());
      row.fields.reset();
      if (!fields.empty()) row.fields = fields[i];
    }
    return absl::OkStatus();
  }

  absl::Status Remove(absl::Span<const std::string> ids) override {
    absl::MutexLock lock(&mutex_);
    for (const std::string& id : ids) rows_.erase(id);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options, SearchStats* stats) const override {
    if (options.k < 1) return InvalidField("k", "must be at least 1");
    if (options.recall.has_value() &&
        !(*options.recall > 0 && *options.recall <= 1)) {
      return InvalidField("recall", "must be above 0 and at most 1");
    }
    QUERN_RETURN_IF_ERROR(Check(queries, "queries"));
    QUERN_RETURN_IF_ERROR(context.Check("search"));
    std::vector<std::vector<ScoredId>> results;
    for (int64_t i = 0; i < queries.rows; ++i) {
      results.push_back(SearchOne(queries.row(i), options));
    }
    *stats = {.shards_asked = 1, .shards_answered = 1};
    if (options.explain) stats->plan = "Compared everything.";
    return results;
  }

  std::vector<ShardInfo> shards() const override {
    return {{.item_count = size(), .measured_recall = 1}};
  }

  bool Contains(const std::string& id) const override {
    absl::MutexLock lock(&mutex_);
    return rows_.contains(id);
  }

  absl::Status LinkFiles(
      const RequestContext& /*context*/, const std::string& /*directory*/,
      const std::function<absl::Status()>& then) const override {
    return then();
  }

  int64_t memory_bytes() const override {
    return size() * dimension_ * static_cast<int64_t>(sizeof(float));
  }

 private:
  struct Row {
    std::vector<float> vector;
    std::optional<FieldValues> fields;  // Null: given without.
  };

  static double Dot(absl::Span<const float> a, absl::Span<const float> b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      sum += static_cast<double>(a[i]) * b[i];
    }
    return sum;
  }

  float Score(absl::Span<const float> a, absl::Span<const float> b) const {
    double score = Dot(a, b);
    if (metric_ == Metric::kCosine) {
      score = std::clamp(score / std::sqrt(Dot(a, a) * Dot(b, b)), -1.0, 1.0);
    }
    return static_cast<float>(score);
  }

  absl::Status Check(MatrixView rows, const std::string& name) const {
    for (int64_t i = 0; i < rows.rows; ++i) {
      if (rows.columns != dimension_) {
        return InvalidField(name,
                            absl::StrCat("the dimension is ", dimension_));
      }
      const double squared_norm = Dot(rows.row(i), rows.row(i));
      if (!std::isfinite(squared_norm) || squared_norm > 1e38 ||
          (squared_norm == 0 && metric_ == Metric::kCosine)) {
        return InvalidField(absl::StrCat(name, "[", i, "]"),
                            "cannot be compared");
      }
    }
    return absl::OkStatus();
  }

  std::vector<ScoredId> SearchOne(absl::Span<const float> query,
                                  const VectorSearchOptions& options) const {
    absl::MutexLock lock(&mutex_);
    std::vector<ScoredId> all;
    // The map's order is that of the ids, and the sort keeps it among equals.
    for (const auto& [id, row] : rows_) {
      if (!IsWanted(row, options)) continue;
      all.push_back({.id = id, .score = Score(query, row.vector)});
    }
    std::stable_sort(
        all.begin(), all.end(),
        [](const ScoredId& a, const ScoredId& b) { return a.score > b.score; });
    if (static_cast<int64_t>(all.size()) > options.k) all.resize(options.k);
    return all;
  }

  static bool IsWanted(const Row& row, const VectorSearchOptions& options) {
    if (options.filter == nullptr && options.modalities.empty()) return true;
    if (!row.fields.has_value()) return false;
    if (options.filter != nullptr && !Matches(*options.filter, *row.fields)) {
      return false;
    }
    return options.modalities.empty() ||
           std::find(options.modalities.begin(), options.modalities.end(),
                     row.fields->modality) != options.modalities.end();
  }

  const int64_t dimension_;
  const Metric metric_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Row> rows_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
