#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"

namespace quern {

struct IvfPqOptions {
  int64_t lists = 0;  // 0: by the number of rows.
  unsigned seed = 0x51756572;
};

// Inverted lists of 4-bit product codes, compared 32 at a time (André,
// Kermarrec and Le Scouarnec, "Cache locality is not enough: high-performance
// nearest neighbor search with product quantization fast scan", 2015; FAISS's
// IndexIVFPQFastScan). The lists only name candidates. Immutable; thread-safe.
class IvfPq {
 public:
  // Trains on a sample and encodes all `rows`; `read(i, out)` gives row i.
  // Returns the bytes that Parse() takes. Errors: those of `check`, which runs
  // now and then; kResourceExhausted.
  static absl::StatusOr<std::string> Build(
      int64_t rows, int64_t dimension,
      const std::function<void(int64_t, absl::Span<float>)>& read,
      const IvfPqOptions& options, const std::function<absl::Status()>& check);

  // What Build() returns has no more bytes.
  static size_t MaxBytes(int64_t rows, int64_t dimension,
                         const IvfPqOptions& options);

  // Errors: kDataLoss for bytes that are not lists of so many rows.
  static absl::StatusOr<std::unique_ptr<const IvfPq>> Parse(
      absl::Span<const uint8_t> bytes, int64_t rows, int64_t dimension);

  ~IvfPq();

  int64_t lists() const;
  // The lists' centres, [lists x dimension], and the list of each row.
  void CopyLists(Matrix* centres, std::vector<uint32_t>* list_of) const;

  // For each query the `depth` rows that look best in its `lists` nearest
  // lists, in any order; fewer when those hold fewer. `check` runs between
  // queries, after some milliseconds or one query; its errors end the search.
  absl::StatusOr<std::vector<std::vector<uint32_t>>> Search(
      MatrixView queries, int64_t lists, int64_t depth,
      const std::function<absl::Status()>& check) const;

  int64_t memory_bytes() const;

 private:
  struct State;
  explicit IvfPq(std::unique_ptr<const State> state);
  const std::unique_ptr<const State> state_;
};

}  // namespace quern
