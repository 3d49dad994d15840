#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct roaring_bitmap_s;

namespace quern {

// A set of rows (0 to 2^32 - 1) as a Roaring bitmap (Lemire et al. 2018,
// "Roaring bitmaps: implementation of an optimized software library"). An empty
// one costs no memory besides itself. Not synchronised: const methods may run
// side by side, others alone.
class RowSet {
 public:
  RowSet();
  RowSet(const RowSet& other);
  RowSet& operator=(const RowSet& other);
  RowSet(RowSet&& other) noexcept;  // `other` is empty afterwards.
  RowSet& operator=(RowSet&& other) noexcept;
  ~RowSet();

  // All rows of `sets`, which may not be null.
  static RowSet UnionOf(absl::Span<const RowSet* const> sets);

  // Rows in any order; it is fastest in rising order.
  void Add(uint32_t row);
  void AddMany(absl::Span<const uint32_t> rows);
  // first to last, both included.
  void AddRange(uint32_t first, uint32_t last);
  // Whether it was there.
  bool Remove(uint32_t row);

  bool Contains(uint32_t row) const;
  bool empty() const;
  // The number of rows.
  int64_t size() const;

  RowSet& operator&=(const RowSet& other);
  RowSet& operator|=(const RowSet& other);
  RowSet& operator-=(const RowSet& other);
  friend bool operator==(const RowSet& a, const RowSet& b);
  bool IsSubsetOf(const RowSet& other) const;

  // In rising order.
  void ForEach(absl::FunctionRef<void(uint32_t row)> visit) const;

  // Sets bit `row % 64` of `words[row / 64]` for each row and clears the
  // others. Rows at 64 * words.size() and above are left out.
  void ToBitset(absl::Span<uint64_t> words) const;

  // Runs of rows as varints: their number; of each the rows left out before it
  // * 2, + 1 if it is longer than one row, and then its length - 2.
  void AppendTo(std::string& bytes) const;
  // Takes one off the front of `bytes`. False, with `bytes` and `rows` in any
  // state: there is none, or it has rows at `row_limit` or above.
  static bool Take(absl::string_view& bytes, uint64_t row_limit, RowSet& rows);

 private:
  struct Free {
    void operator()(roaring_bitmap_s* bitmap) const;
  };

  roaring_bitmap_s& Bitmap();  // Makes one if there is none.

  std::unique_ptr<roaring_bitmap_s, Free> bitmap_;  // Null: empty.
};

// The same bytes for a set of one row, without making it. Take: nothing, and
// `bytes` is as it was, if another set, or none, is next.
void AppendSingleRow(uint32_t row, std::string& bytes);
std::optional<uint32_t> TakeSingleRow(absl::string_view& bytes);

// A 64-bit varint as in protocol buffers. Take: false if there is none.
void AppendVarint(uint64_t number, std::string& bytes);
bool TakeVarint(absl::string_view& bytes, uint64_t& number);

}  // namespace quern
