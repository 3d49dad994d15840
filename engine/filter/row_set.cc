#include "engine/filter/row_set.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "roaring/roaring.h"

namespace quern {
namespace {

constexpr size_t kContainerWords = 1024;  // Of 65,536 rows.

// Sets bits first to last (both included) of `words`, as far as it goes.
void SetBits(uint64_t first, uint64_t last, absl::Span<uint64_t> words) {
  const uint64_t end = std::min<uint64_t>(last + 1, words.size() * 64);
  while (first < end) {
    const uint64_t stop = std::min<uint64_t>(end, (first / 64 + 1) * 64);
    const uint64_t ones = ~uint64_t{0} >> (64 - (stop - first));
    words[first / 64] |= ones << (first % 64);
    first = stop;
  }
}

// CRoaring 0.2.66 has no function for this; row by row it would take 50 times
// as long for a dense set.
void CopyContainer(const void* container, uint8_t type,
                   absl::Span<uint64_t> words) {
  container = container_unwrap_shared(container, &type);
  switch (type) {
    case BITSET_CONTAINER_TYPE_CODE: {
      const auto* bitset = static_cast<const bitset_container_t*>(container);
      std::copy_n(bitset->array, words.size(), words.begin());
      return;
    }
    case ARRAY_CONTAINER_TYPE_CODE: {
      const auto* array = static_cast<const array_container_t*>(container);
      for (int32_t i = 0; i < array->cardinality; ++i) {
        const uint16_t row = array->array[i];
        if (row / 64 >= words.size()) return;
        words[row / 64] |= uint64_t{1} << (row % 64);
      }
      return;
    }
    default: {
      const auto* runs = static_cast<const run_container_t*>(container);
      for (int32_t i = 0; i < runs->n_runs; ++i) {
        const uint64_t first = runs->runs[i].value;
        SetBits(first, first + runs->runs[i].length, words);
      }
    }
  }
}

}  // namespace

void RowSet::Free::operator()(roaring_bitmap_s* bitmap) const {
  roaring_bitmap_free(bitmap);
}

RowSet::RowSet() = default;
RowSet::~RowSet() = default;
RowSet::RowSet(RowSet&& other) noexcept = default;
RowSet& RowSet::operator=(RowSet&& other) noexcept = default;

RowSet::RowSet(const RowSet& other) {
  if (other.bitmap_ != nullptr) {
    bitmap_.reset(roaring_bitmap_copy(other.bitmap_.get()));
  }
}

RowSet& RowSet::operator=(const RowSet& other) {
  *this = RowSet(other);
  return *this;
}

roaring_bitmap_s& RowSet::Bitmap() {
  if (bitmap_ == nullptr) bitmap_.reset(roaring_bitmap_create());
  return *bitmap_;
}

RowSet RowSet::UnionOf(absl::Span<const RowSet* const> sets) {
  std::vector<const roaring_bitmap_t*> bitmaps;
  bitmaps.reserve(sets.size());
  for (const RowSet* set : sets) {
    if (set->bitmap_ != nullptr) bitmaps.push_back(set->bitmap_.get());
  }
  RowSet rows;
  if (!bitmaps.empty()) {
    rows.bitmap_.reset(roaring_bitmap_or_many(bitmaps.size(), bitmaps.data()));
  }
  return rows;
}

void RowSet::Add(uint32_t row) { roaring_bitmap_add(&Bitmap(), row); }

void RowSet::AddMany(absl::Span<const uint32_t> rows) {
  if (rows.empty()) return;
  roaring_bitmap_add_many(&Bitmap(), rows.size(), rows.data());
}

void RowSet::AddRange(uint32_t first, uint32_t last) {
  roaring_bitmap_add_range_closed(&Bitmap(), first, last);
}

bool RowSet::Remove(uint32_t row) {
  return bitmap_ != nullptr &&
         roaring_bitmap_remove_checked(bitmap_.get(), row);
}

bool RowSet::Contains(uint32_t row) const {
  return bitmap_ != nullptr && roaring_bitmap_contains(bitmap_.get(), row);
}

bool RowSet::empty() const {
  return bitmap_ == nullptr || roaring_bitmap_is_empty(bitmap_.get());
}

int64_t RowSet::size() const {
  if (bitmap_ == nullptr) return 0;
  return static_cast<int64_t>(roaring_bitmap_get_cardinality(bitmap_.get()));
}

RowSet& RowSet::operator&=(const RowSet& other) {
  if (bitmap_ == nullptr) return *this;
  if (other.bitmap_ == nullptr) {
    bitmap_.reset();
  } else if (this != &other) {
    roaring_bitmap_and_inplace(bitmap_.get(), other.bitmap_.get());
  }
  return *this;
}

RowSet& RowSet::operator|=(const RowSet& other) {
  if (other.bitmap_ == nullptr || this == &other) return *this;
  if (bitmap_ == nullptr) return *this = other;
  roaring_bitmap_or_inplace(bitmap_.get(), other.bitmap_.get());
  return *this;
}

RowSet& RowSet::operator-=(const RowSet& other) {
  if (bitmap_ == nullptr || other.bitmap_ == nullptr) return *this;
  if (this == &other) {
    bitmap_.reset();
  } else {
    roaring_bitmap_andnot_inplace(bitmap_.get(), other.bitmap_.get());
  }
  return *this;
}

bool operator==(const RowSet& a, const RowSet& b) {
  if (a.bitmap_ == nullptr || b.bitmap_ == nullptr) {
    return a.empty() && b.empty();
  }
  return roaring_bitmap_equals(a.bitmap_.get(), b.bitmap_.get());
}

bool RowSet::IsSubsetOf(const RowSet& other) const {
  if (empty()) return true;
  return other.bitmap_ != nullptr &&
         roaring_bitmap_is_subset(bitmap_.get(), other.bitmap_.get());
}

void RowSet::ForEach(absl::FunctionRef<void(uint32_t row)> visit) const {
  if (bitmap_ == nullptr) return;
  roaring_uint32_iterator_t iterator;
  roaring_init_iterator(bitmap_.get(), &iterator);
  std::array<uint32_t, 256> rows;
  while (const uint32_t count = roaring_read_uint32_iterator(
             &iterator, rows.data(), rows.size())) {
    for (uint32_t i = 0; i < count; ++i) visit(rows[i]);
  }
}

void RowSet::ToBitset(absl::Span<uint64_t> words) const {
  std::fill(words.begin(), words.end(), 0);
  if (bitmap_ == nullptr) return;
  const roaring_array_t& containers = bitmap_->high_low_container;
  for (int32_t i = 0; i < containers.size; ++i) {
    const size_t first = containers.keys[i] * kContainerWords;
    if (first >= words.size()) return;
    CopyContainer(containers.containers[i], containers.typecodes[i],
                  words.subspan(first, kContainerWords));
  }
}

RowBits RowSet::Bits() const {
  RowBits bits;
  if (empty()) return bits;
  const roaring_array_t& containers = bitmap_->high_low_container;
  const auto count = static_cast<size_t>(containers.size);
  bits.pages_.resize(containers.keys[count - 1] + size_t{1});
  bits.words_.resize((count + 1) * kContainerWords);
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = (i + 1) * kContainerWords;
    bits.pages_[containers.keys[i]] = static_cast<uint32_t>(begin);
    CopyContainer(containers.containers[i], containers.typecodes[i],
                  absl::MakeSpan(bits.words_).subspan(begin, kContainerWords));
  }
  return bits;
}

void RowSet::AppendTo(std::string& bytes) const {
  std::string runs;
  uint64_t count = 0;
  uint64_t end = 0;  // Of the last run written.
  uint64_t first = 0;
  uint64_t length = 0;  // Of the run at `first` that is not written yet.
  const auto write = [&] {
    if (length == 0) return;
    AppendVarint((first - end) * 2 + (length > 1 ? 1 : 0), runs);
    if (length > 1) AppendVarint(length - 2, runs);
    end = first + length;
    ++count;
  };
  ForEach([&](uint32_t row) {
    if (length > 0 && row == first + length) {
      ++length;
      return;
    }
    write();
    first = row;
    length = 1;
  });
  write();
  AppendVarint(count, bytes);
  bytes += runs;
}

bool RowSet::Take(absl::string_view& bytes, uint64_t row_limit, RowSet& rows) {
  rows = RowSet();
  uint64_t count = 0;
  if (!TakeVarint(bytes, count)) return false;
  uint64_t end = 0;
  for (; count > 0; --count) {
    uint64_t gap = 0;
    uint64_t length = 1;
    if (!TakeVarint(bytes, gap)) return false;
    if (gap % 2 == 1) {
      if (!TakeVarint(bytes, length) || length >= row_limit) return false;
      length += 2;
    }
    gap /= 2;
    if (gap >= row_limit || end + gap + length > row_limit) return false;
    const uint64_t first = end + gap;
    end = first + length;
    rows.AddRange(static_cast<uint32_t>(first), static_cast<uint32_t>(end - 1));
  }
  return true;
}

void AppendSingleRow(uint32_t row, std::string& bytes) {
  AppendVarint(1, bytes);
  AppendVarint(uint64_t{row} * 2, bytes);
}

std::optional<uint32_t> TakeSingleRow(absl::string_view& bytes) {
  if (bytes.empty() || bytes.front() != 1) return std::nullopt;
  absl::string_view rest = bytes.substr(1);
  uint64_t gap = 0;
  if (!TakeVarint(rest, gap) || gap % 2 == 1 || gap / 2 > UINT32_MAX) {
    return std::nullopt;
  }
  bytes = rest;
  return static_cast<uint32_t>(gap / 2);
}

void AppendVarint(uint64_t number, std::string& bytes) {
  for (; number >= 0x80; number >>= 7) {
    bytes.push_back(static_cast<char>(0x80 | (number & 0x7F)));
  }
  bytes.push_back(static_cast<char>(number));
}

bool TakeVarint(absl::string_view& bytes, uint64_t& number) {
  number = 0;
  for (size_t i = 0; i < bytes.size() && i < 10; ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    number |= static_cast<uint64_t>(byte & 0x7F) << (7 * i);
    if (byte < 0x80) {
      bytes.remove_prefix(i + 1);
      return true;
    }
  }
  return false;
}

}  // namespace quern
