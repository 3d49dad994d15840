#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

#include "engine/filter/filter.h"
#include "engine/filter/row_set.h"

// The values of one field over many rows, for FieldIndex.

namespace quern {

// Not synchronised: const methods may run side by side, others alone.
class FieldColumn {
 public:
  static std::unique_ptr<FieldColumn> Create(FieldType type, bool repeated);
  virtual ~FieldColumn() = default;

  // `value` is of the column's type.
  virtual void Add(const FieldValue& value, uint32_t row) = 0;

  // The rows with a value for which the comparison `node` is true, removed ones
  // among them until they are swept.
  virtual RowSet Match(const FilterNode& node) const = 0;

  struct Count {
    int64_t lower = 0;
    int64_t upper = 0;
  };
  // Bounds of the number of rows of Match(), in microseconds.
  virtual Count Estimate(const FilterNode& node) const = 0;

  // Takes `dead` rows out of the values of group `group`, a position from 0 on.
  // Returns where to go on, or kSwept if that was the last one. Groups that
  // come to be meanwhile do no harm.
  static constexpr size_t kSwept = ~size_t{0};
  virtual size_t Sweep(size_t group, const RowSet& dead) = 0;

  // Appends values of `live` rows, rising, each with its rows, from the first
  // one above `*after` on (null: from the first one on), and adds their number
  // to `*count`. After some thousand, or tens of thousands of rows, it stops
  // with the last one in `*after`: true, there may be more.
  virtual bool AppendSome(const RowSet& live, std::optional<FieldValue>* after,
                          uint64_t* count, std::string* bytes) const = 0;
  // Reads a number of values, and as many as that, off the front of `bytes`
  // into an empty column; false, with both in any state, if they are not sound,
  // or of rows that are not in `live`, which has none from `row_limit` on.
  virtual bool Take(absl::string_view& bytes, uint64_t row_limit,
                    const RowSet& live) = 0;
};

}  // namespace quern
