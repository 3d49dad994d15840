#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/filter/field_values.h"
#include "engine/filter/filter.h"
#include "engine/filter/row_set.h"

namespace quern {

class FieldColumn;

// Which rows match a filter, from the values of their declared fields.
//
// Each field keeps its values in order with the rows of each, and the union of
// the rows of some thousand neighbouring values, so that a range takes the time
// of a few hundred unions however many values it spans. Removed rows stay in
// these structures until there are enough of them to be worth a sweep, which
// goes on in small steps with the removals that follow.
//
// Not synchronised: const methods may run side by side, others alone.
class FieldIndex {
 public:
  // The filters and values given to it must be made with the same `fields`.
  explicit FieldIndex(absl::Span<const FieldDeclaration> fields);
  FieldIndex(FieldIndex&&) noexcept;
  FieldIndex& operator=(FieldIndex&&) noexcept;
  ~FieldIndex();

  const std::vector<FieldDeclaration>& fields() const { return fields_; }
  // Rows that were added and not removed.
  const RowSet& rows() const { return live_; }

  // A row is added once in the life of an index, also if it was removed since.
  void Add(uint32_t row, const FieldValues& values);
  // Nothing happens if the row is not there.
  void Remove(uint32_t row);
  // Removes all rows that are not in `rows`.
  void KeepOnly(const RowSet& rows);

  // The rows that match `filter` (null: all) and have one of `modalities`
  // (empty: any): exactly those that Matches() says.
  RowSet Match(const Filter* filter,
               absl::Span<const int32_t> modalities) const;

  // At least as many rows as Match() would give, in microseconds per
  // comparison. A comparison with = alone is counted exactly, and ranges to
  // within some thousand values, as long as no removed rows are left.
  int64_t Estimate(const Filter* filter,
                   absl::Span<const int32_t> modalities) const;

  // Reads the whole of what a FieldIndexWriter has written.
  // Errors: kDataLoss: not such an index, another format version, damaged, or
  // with rows at `row_limit` or above. The cure is to make it again from items.
  static absl::StatusOr<FieldIndex> Parse(absl::string_view bytes,
                                          uint64_t row_limit = uint64_t{1}
                                                               << 32);

 private:
  friend class FieldIndexWriter;

  struct Bounds {
    int64_t lower;
    int64_t upper;
  };

  RowSet MatchNode(const FilterNode& node) const;
  RowSet MatchAll(const FilterNode& node) const;
  RowSet OfModalities(absl::Span<const int32_t> modalities) const;
  Bounds EstimateNode(const FilterNode& node) const;
  const FieldColumn* ColumnOf(const FilterNode& node) const;
  void SweepStep();
  static absl::StatusOr<FieldIndex> ParseBody(absl::string_view body,
                                              uint64_t row_limit);

  std::vector<FieldDeclaration> fields_;
  std::vector<std::unique_ptr<FieldColumn>> columns_;  // One per field.
  std::map<int32_t, RowSet> modalities_;
  RowSet live_;
  RowSet dead_;  // Removed, and perhaps still in the columns.

  // The sweep that is going on: of these rows, now at this group of a column.
  RowSet sweeping_;
  size_t sweep_column_ = 0;
  size_t sweep_group_ = 0;
};

// Writes down an index as it is at the beginning, in steps between which it may
// change: rows that come later are not in it, and those that are removed later
// are, perhaps without their values. Of rows removed before nothing is left.
// There is a format version and a checksum; README.md describes the format.
//
// A const use of the index, which must outlive it; but Take() after the last
// step is none.
class FieldIndexWriter {
 public:
  explicit FieldIndexWriter(const FieldIndex& index);

  // Up to a millisecond's work. False: that was the last one.
  bool Step();
  // All of it, after the steps that are left; the writer is spent.
  std::string Take();

 private:
  const FieldIndex& index_;
  const RowSet live_;
  const std::map<int32_t, RowSet> modalities_;
  size_t column_ = 0;
  // Of the columns before that one, and of that one.
  std::string columns_;
  std::string values_;
  uint64_t count_ = 0;
  std::optional<FieldValue> after_;
};

}  // namespace quern
