#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"

namespace quern {

enum class Metric {
  kCosine,      // Vectors are normalised on the way in; scores in [-1, 1].
  kDotProduct,  // Scores as they come.
};

struct ScoredId {
  std::string id;
  float score = 0;  // Higher is better.
};

struct VectorSearchOptions {
  int64_t k = 10;  // Results per query; >= 1. Fewer come when fewer exist.
};

// Nearest neighbours by inner product over item ids. Derived from the store: it
// may be dropped and built again at any time. Thread-safe; a search sees all or
// nothing of an Upsert() or Remove().
class VectorIndex {
 public:
  virtual ~VectorIndex() = default;

  virtual int64_t dimension() const = 0;
  virtual int64_t size() const = 0;  // Ids that a search can return.

  // Inserts or replaces; `vectors` is ids.size() x dimension, finite. Of equal
  // ids the last one wins. Errors: kInvalidArgument for a wrong shape,
  // kResourceExhausted.
  virtual absl::Status Upsert(absl::Span<const std::string> ids,
                              MatrixView vectors) = 0;

  // Ids that are not there are ignored.
  virtual absl::Status Remove(absl::Span<const std::string> ids) = 0;

  // One list per query row, best first; equal scores in byte order of the ids.
  // Errors: kInvalidArgument for a wrong shape or k, and what context.Check()
  // gives: a cancelled search stops early.
  virtual absl::StatusOr<std::vector<std::vector<ScoredId>>> Search(
      const RequestContext& context, MatrixView queries,
      const VectorSearchOptions& options) const = 0;

  // Resident bytes, roughly.
  virtual int64_t memory_bytes() const = 0;
};

}  // namespace quern
