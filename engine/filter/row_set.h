#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct roaring_bitmap_s;

namespace quern {

class RowBits;

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
  RowBits Bits() const;

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

// A RowSet to look many rows up in: a bit a row, in pages of 8 KiB, of which
// those without rows are one and the same. So what it takes depends on how many
// rows there are and how far apart, not on how high. Immutable.
class RowBits {
 public:
  bool Contains(uint32_t row) const {
    const size_t page = row / kPageRows;
    return page < pages_.size() &&
           (words_[pages_[page] + row % kPageRows / 64] >> (row % 64) & 1) != 0;
  }

  // From `first` to `last`, both included, in rising order.
  template <typename Visit>
  void ForEachBetween(uint32_t first, uint32_t last, const Visit& visit) const {
    const size_t end = std::min<size_t>(last / kPageRows + 1, pages_.size());
    for (size_t page = first / kPageRows; page < end; ++page) {
      if (pages_[page] == 0) continue;
      for (size_t i = 0; i < kPageWords; ++i) {
        for (uint64_t bits = words_[pages_[page] + i]; bits != 0;
             bits &= bits - 1) {
          const size_t row = page * kPageRows + i * 64 +
                             static_cast<size_t>(__builtin_ctzll(bits));
          if (row >= first && row <= last) visit(static_cast<uint32_t>(row));
        }
      }
    }
  }

  int64_t memory_bytes() const {
    return static_cast<int64_t>(pages_.size() * sizeof(pages_[0]) +
                                words_.size() * sizeof(words_[0]));
  }

 private:
  friend class RowSet;
  static constexpr size_t kPageWords = 1024;  // Of a Roaring container.
  static constexpr size_t kPageRows = kPageWords * 64;

  std::vector<uint32_t> pages_;  // Where each begins in `words_`.
  std::vector<uint64_t> words_ = std::vector<uint64_t>(kPageWords);  // Page 0.
};

// The same bytes for a set of one row, without making it. Take: nothing, and
// `bytes` is as it was, if another set, or none, is next.
void AppendSingleRow(uint32_t row, std::string& bytes);
std::optional<uint32_t> TakeSingleRow(absl::string_view& bytes);

// A 64-bit varint as in protocol buffers. Take: false if there is none.
void AppendVarint(uint64_t number, std::string& bytes);
bool TakeVarint(absl::string_view& bytes, uint64_t& number);

}  // namespace quern
