#include "engine/filter/field_column.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/time/time.h"

namespace quern {
namespace {

// Values of a group: as many as a range has to look at one by one at its ends.
// A share of all keeps the number of groups in the hundreds.
constexpr size_t kMinGroupValues = 4096;
constexpr size_t kGroupShare = 256;
// From this many rows on a bitmap is smaller than a list.
constexpr size_t kMaxListRows = 64;
// Written in one turn: less than a millisecond's work, unless one value has
// very many rows.
constexpr int kMaxAppendedValues = 2048;
constexpr int64_t kMaxAppendedRows = 32'768;
// Values looked at one by one at the end of a range to estimate it.
constexpr int kMaxEstimatedValues = 64;

// Gathers rows and sets to one set.
class Gatherer {
 public:
  void Add(uint32_t row) { rows_.push_back(row); }
  void Add(absl::Span<const uint32_t> rows) {
    rows_.insert(rows_.end(), rows.begin(), rows.end());
  }
  // `set` must outlive this.
  void Add(const RowSet& set) { sets_.push_back(&set); }

  RowSet Finish() {
    RowSet set = RowSet::UnionOf(sets_);
    std::sort(rows_.begin(), rows_.end());
    set.AddMany(rows_);
    return set;
  }

 private:
  std::vector<uint32_t> rows_;
  std::vector<const RowSet*> sets_;
};

// The rows of one value: most often one, so that has to be small.
class Posting {
 public:
  void Add(uint32_t row) {
    if (auto* set = std::get_if<RowSet>(&rows_)) return set->Add(row);
    if (std::holds_alternative<std::monostate>(rows_)) {
      rows_ = row;
      return;
    }
    if (const auto* one = std::get_if<uint32_t>(&rows_)) {
      if (*one == row) return;
      rows_ = std::make_unique<List>(List{*one});
    }
    List& list = *std::get<std::unique_ptr<List>>(rows_);
    const auto place = std::lower_bound(list.begin(), list.end(), row);
    if (place != list.end() && *place == row) return;
    list.insert(place, row);
    if (list.size() > kMaxListRows) {
      RowSet set;
      set.AddMany(list);
      rows_ = std::move(set);
    }
  }

  void GatherTo(Gatherer& gatherer) const {
    if (const auto* set = std::get_if<RowSet>(&rows_)) {
      gatherer.Add(*set);
    } else if (const auto* one = std::get_if<uint32_t>(&rows_)) {
      gatherer.Add(*one);
    } else if (const auto* list = std::get_if<std::unique_ptr<List>>(&rows_)) {
      gatherer.Add(**list);
    }
  }

  int64_t size() const {
    if (const auto* set = std::get_if<RowSet>(&rows_)) return set->size();
    if (const auto* list = std::get_if<std::unique_ptr<List>>(&rows_)) {
      return static_cast<int64_t>((*list)->size());
    }
    return std::holds_alternative<uint32_t>(rows_) ? 1 : 0;
  }

  bool empty() const { return size() == 0; }

  void Remove(const RowSet& dead) {
    if (auto* set = std::get_if<RowSet>(&rows_)) {
      *set -= dead;
    } else if (auto* list = std::get_if<std::unique_ptr<List>>(&rows_)) {
      std::erase_if(**list, [&](uint32_t row) { return dead.Contains(row); });
    } else if (const auto* one = std::get_if<uint32_t>(&rows_)) {
      if (dead.Contains(*one)) rows_ = std::monostate();
    }
  }

  // Writes its rows that are in `live`, false if there are none.
  bool AppendTo(const RowSet& live, std::string& bytes) const {
    if (const auto* one = std::get_if<uint32_t>(&rows_)) {
      if (!live.Contains(*one)) return false;
      AppendSingleRow(*one, bytes);
      return true;
    }
    Gatherer gatherer;
    GatherTo(gatherer);
    RowSet rows = gatherer.Finish();
    rows &= live;
    if (rows.empty()) return false;
    rows.AppendTo(bytes);
    return true;
  }

  // What AppendTo() wrote; also adds the rows to `all`. Nothing if there is
  // none, or its rows are not in `live`, which has none from `row_limit` on.
  static std::optional<Posting> Take(absl::string_view& bytes,
                                     uint64_t row_limit, const RowSet& live,
                                     RowSet& all) {
    Posting posting;
    if (const auto one = TakeSingleRow(bytes)) {
      if (!live.Contains(*one)) return std::nullopt;
      posting.Add(*one);
      all.Add(*one);
      return posting;
    }
    RowSet rows;
    if (!RowSet::Take(bytes, row_limit, rows) || rows.empty() ||
        !rows.IsSubsetOf(live)) {
      return std::nullopt;
    }
    all |= rows;
    if (rows.size() > static_cast<int64_t>(kMaxListRows)) {
      posting.rows_ = std::move(rows);
    } else {
      rows.ForEach([&posting](uint32_t row) { posting.Add(row); });
    }
    return posting;
  }

 private:
  using List = std::vector<uint32_t>;  // Rising.

  std::variant<std::monostate, uint32_t, std::unique_ptr<List>, RowSet> rows_;
};

// --- Values as bytes: text with its length before it, numbers little-endian.

static_assert(std::endian::native == std::endian::little,
              "the index is little-endian");

template <typename Number>
void AppendFixed(Number number, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
bool TakeFixed(absl::string_view& bytes, Number& number) {
  if (bytes.size() < sizeof(number)) return false;
  std::memcpy(&number, bytes.data(), sizeof(number));
  bytes.remove_prefix(sizeof(number));
  return true;
}

void AppendKey(const std::string& key, std::string& bytes) {
  AppendVarint(key.size(), bytes);
  bytes += key;
}
void AppendKey(double key, std::string& bytes) { AppendFixed(key, bytes); }
void AppendKey(bool key, std::string& bytes) {
  bytes.push_back(key ? '\1' : '\0');
}
void AppendKey(absl::Time key, std::string& bytes) {
  const int64_t seconds = absl::ToUnixSeconds(key);  // Rounds down.
  AppendFixed(seconds, bytes);
  AppendFixed(static_cast<uint32_t>(absl::ToInt64Nanoseconds(
                  key - absl::FromUnixSeconds(seconds))),
              bytes);
}

bool TakeKey(absl::string_view& bytes, std::string& key) {
  uint64_t size = 0;
  if (!TakeVarint(bytes, size) || size > bytes.size()) return false;
  key.assign(bytes.data(), size);
  bytes.remove_prefix(size);
  return true;
}
bool TakeKey(absl::string_view& bytes, double& key) {
  return TakeFixed(bytes, key) && !std::isnan(key);
}
bool TakeKey(absl::string_view& bytes, bool& key) {
  if (bytes.empty() || static_cast<uint8_t>(bytes.front()) > 1) return false;
  key = bytes.front() != 0;
  bytes.remove_prefix(1);
  return true;
}
bool TakeKey(absl::string_view& bytes, absl::Time& key) {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  if (!TakeFixed(bytes, seconds) || !TakeFixed(bytes, nanoseconds) ||
      nanoseconds >= 1000000000) {
    return false;
  }
  key = absl::FromUnixSeconds(seconds) + absl::Nanoseconds(nanoseconds);
  return true;
}

// The first text behind all that begin with `prefix`; nothing if there is none.
std::optional<std::string> EndOfPrefix(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xFF') prefix.pop_back();
  if (prefix.empty()) return std::nullopt;
  prefix.back() = static_cast<char>(static_cast<uint8_t>(prefix.back()) + 1);
  return prefix;
}

template <typename Key>
class OrderedColumn : public FieldColumn {
 public:
  explicit OrderedColumn(bool repeated) : repeated_(repeated), groups_(1) {}

  void Add(const FieldValue& value, uint32_t row) override {
    const Key& key = std::get<Key>(value);
    const auto [place, inserted] = postings_.try_emplace(key);
    place->second.Add(row);
    all_.Add(row);
    const size_t group = GroupOf(key);
    groups_[group].rows.Add(row);
    if (inserted && ++groups_[group].values > MaxGroupValues()) Split(group);
  }

  RowSet Match(const FilterNode& node) const override {
    if (node.op == FilterOp::kEqual || node.op == FilterOp::kIn) {
      Gatherer gatherer;
      for (const FieldValue& value : node.values) {
        if (const Posting* posting = Find(value)) posting->GatherTo(gatherer);
      }
      return gatherer.Finish();
    }
    const auto [begin, end] = RangeOf(node);
    if (IsAll(begin, end)) return all_;
    // The smaller side; a row of a repeated field may be on both.
    if (repeated_ || GroupAt(end) - GroupAt(begin) <= groups_.size() / 2) {
      return RowsOf(begin, end);
    }
    RowSet rows = all_;
    rows -= RowsOf(postings_.begin(), begin);
    rows -= RowsOf(end, postings_.end());
    return rows;
  }

  Count Estimate(const FilterNode& node) const override {
    Count count;
    const auto add = [&](int64_t rows) {
      count.upper += rows;
      // Rows of a repeated field may be in several parts.
      count.lower = repeated_ ? std::max(count.lower, rows) : count.upper;
    };
    if (node.op == FilterOp::kEqual || node.op == FilterOp::kIn) {
      for (const FieldValue& value : node.values) {
        if (const Posting* posting = Find(value)) add(posting->size());
      }
      return count;
    }
    int64_t unsure = 0;  // Rows at the ends that may match or not.
    const auto [begin, end] = RangeOf(node);
    if (IsAll(begin, end)) return {.lower = all_.size(), .upper = all_.size()};
    Visit(
        begin, end, [&](const Group& group) { add(group.rows.size()); },
        [&](size_t group, Iterator first, Iterator last) {
          int64_t rows = 0;
          for (int i = 0; first != last && i < kMaxEstimatedValues; ++i) {
            rows += (first++)->second.size();
          }
          add(rows);
          if (first != last) {
            unsure += std::max<int64_t>(groups_[group].rows.size() - rows, 0);
          }
        });
    count.upper += unsure;
    return count;
  }

  size_t Sweep(size_t group, const RowSet& dead) override {
    if (group >= groups_.size()) return kSwept;
    auto place = group == 0 ? postings_.begin()
                            : postings_.lower_bound(groups_[group].first);
    const bool last = group + 1 == groups_.size();
    while (place != postings_.end() &&
           (last || place->first < groups_[group + 1].first)) {
      place->second.Remove(dead);
      if (place->second.empty()) {
        place = postings_.erase(place);
        --groups_[group].values;
      } else {
        ++place;
      }
    }
    groups_[group].rows -= dead;
    if (Join(group)) --group;
    if (group + 1 < groups_.size()) return group + 1;
    all_ -= dead;
    return kSwept;
  }

  bool AppendSome(const RowSet& live, std::optional<FieldValue>* after,
                  uint64_t* count, std::string* bytes) const override {
    Iterator place = after->has_value()
                         ? postings_.upper_bound(std::get<Key>(**after))
                         : postings_.begin();
    int64_t rows = 0;
    for (int values = 0; place != postings_.end(); ++place) {
      const auto& [key, posting] = *place;
      const size_t before = bytes->size();
      AppendKey(key, *bytes);
      if (posting.AppendTo(live, *bytes)) {
        ++*count;
      } else {
        bytes->resize(before);
      }
      rows += posting.size();
      if (++values < kMaxAppendedValues && rows < kMaxAppendedRows) continue;
      *after = FieldValue(key);
      return true;
    }
    return false;
  }

  bool Take(absl::string_view& bytes, uint64_t row_limit,
            const RowSet& live) override {
    uint64_t count = 0;
    if (!TakeVarint(bytes, count)) return false;
    int64_t left = live.size();  // Rows without a value, unless it is repeated.
    for (; count > 0; --count) {
      Key key;
      if (!TakeKey(bytes, key)) return false;
      const bool rising =
          postings_.empty() || std::prev(postings_.end())->first < key;
      if (!rising) return false;
      Group& group = LastGroup(key);
      auto posting = Posting::Take(bytes, row_limit, live, group.rows);
      if (!posting.has_value()) return false;
      left -= posting->size();
      if (left < 0 && !repeated_) return false;
      ++group.values;
      postings_.emplace_hint(postings_.end(), std::move(key),
                             *std::move(posting));
    }
    for (const Group& group : groups_) all_ |= group.rows;
    return true;
  }

 private:
  // Neighbouring values: those from `first` up to the next group's.
  struct Group {
    Key first = {};  // That of group 0 counts as the lowest possible.
    size_t values = 0;
    RowSet rows;  // Of all of them.
  };

  using Map = absl::btree_map<Key, Posting>;
  using Iterator = typename Map::const_iterator;

  size_t MaxGroupValues() const {
    return std::max(kMinGroupValues, postings_.size() / kGroupShare);
  }

  size_t GroupOf(const Key& key) const {
    const auto above = std::upper_bound(
        groups_.begin() + 1, groups_.end(), key,
        [](const Key& a, const Group& b) { return a < b.first; });
    return above - groups_.begin() - 1;
  }

  Iterator Begin(size_t group) const {
    return group == 0 ? postings_.begin()
                      : postings_.lower_bound(groups_[group].first);
  }
  Iterator End(size_t group) const {
    return group + 1 == groups_.size() ? postings_.end() : Begin(group + 1);
  }

  const Posting* Find(const FieldValue& value) const {
    const Key* key = std::get_if<Key>(&value);
    if (key == nullptr) return nullptr;
    const auto place = postings_.find(*key);
    return place == postings_.end() ? nullptr : &place->second;
  }

  // The values that fulfil a comparison with an order, a prefix, or none.
  std::pair<Iterator, Iterator> RangeOf(const FilterNode& node) const {
    if (node.op == FilterOp::kPresent) {
      return {postings_.begin(), postings_.end()};
    }
    const Key* key = std::get_if<Key>(&node.values[0]);
    if (key == nullptr) return {postings_.end(), postings_.end()};
    switch (node.op) {
      case FilterOp::kLess:
        return {postings_.begin(), postings_.lower_bound(*key)};
      case FilterOp::kLessEqual:
        return {postings_.begin(), postings_.upper_bound(*key)};
      case FilterOp::kGreater:
        return {postings_.upper_bound(*key), postings_.end()};
      case FilterOp::kGreaterEqual:
        return {postings_.lower_bound(*key), postings_.end()};
      case FilterOp::kPrefix:
        return PrefixRange(*key);
      default:
        return {postings_.end(), postings_.end()};
    }
  }

  std::pair<Iterator, Iterator> PrefixRange(const Key& key) const {
    if constexpr (std::is_same_v<Key, std::string>) {
      const auto end = EndOfPrefix(key);
      return {postings_.lower_bound(key),
              end.has_value() ? postings_.lower_bound(*end) : postings_.end()};
    } else {
      return {postings_.end(), postings_.end()};
    }
  }

  bool IsAll(Iterator begin, Iterator end) const {
    return begin == postings_.begin() && end == postings_.end();
  }

  // The group of the value at `place`, or how many there are.
  size_t GroupAt(Iterator place) const {
    return place == postings_.end() ? groups_.size() : GroupOf(place->first);
  }

  // Splits [begin, end) in whole groups and parts of groups.
  template <typename OnGroup, typename OnPart>
  void Visit(Iterator begin, Iterator end, OnGroup on_group,
             OnPart on_part) const {
    if (begin == end) return;
    const size_t last = GroupAt(end);
    size_t group = GroupAt(begin);
    if (group < last && begin != Begin(group)) {
      on_part(group, begin, End(group));
      ++group;
    } else if (group == last) {
      on_part(group, begin, end);
      return;
    }
    for (; group < last; ++group) on_group(groups_[group]);
    if (last < groups_.size() && Begin(last) != end) {
      on_part(last, Begin(last), end);
    }
  }

  RowSet RowsOf(Iterator begin, Iterator end) const {
    Gatherer gatherer;
    Visit(
        begin, end, [&](const Group& group) { gatherer.Add(group.rows); },
        [&](size_t, Iterator first, Iterator last) {
          for (; first != last; ++first) first->second.GatherTo(gatherer);
        });
    return gatherer.Finish();
  }

  // The same one by one.
  RowSet Gather(Iterator begin, Iterator end) const {
    Gatherer gatherer;
    for (; begin != end; ++begin) begin->second.GatherTo(gatherer);
    return gatherer.Finish();
  }

  void Split(size_t group) {
    const size_t lower_values = groups_[group].values / 2;
    const Iterator begin = Begin(group);
    const Iterator end = End(group);
    Iterator middle = begin;
    std::advance(middle, lower_values);
    Group upper{.first = middle->first,
                .values = groups_[group].values - lower_values,
                .rows = Gather(middle, end)};
    groups_[group].values = lower_values;
    groups_[group].rows = Gather(begin, middle);
    groups_.insert(groups_.begin() + static_cast<ptrdiff_t>(group) + 1,
                   std::move(upper));
  }

  // Joins a group with the one before it if both together are small.
  bool Join(size_t group) {
    if (group == 0 || groups_[group - 1].values + groups_[group].values >
                          MaxGroupValues() / 2) {
      return false;
    }
    groups_[group - 1].values += groups_[group].values;
    groups_[group - 1].rows |= groups_[group].rows;
    groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(group));
    return true;
  }

  // The group for `key`, which is above all values; with room for more.
  Group& LastGroup(const Key& key) {
    if (groups_.back().values >= MaxGroupValues() * 3 / 4) {
      groups_.push_back({.first = key});
    }
    return groups_.back();
  }

  const bool repeated_;
  Map postings_;
  std::vector<Group> groups_;  // Rising; one at least.
  RowSet all_;                 // Rows with a value.
};

}  // namespace

std::unique_ptr<FieldColumn> FieldColumn::Create(FieldType type,
                                                 bool repeated) {
  switch (type) {
    case FieldType::kNumber:
      return std::make_unique<OrderedColumn<double>>(repeated);
    case FieldType::kBool:
      return std::make_unique<OrderedColumn<bool>>(repeated);
    case FieldType::kTimestamp:
      return std::make_unique<OrderedColumn<absl::Time>>(repeated);
    default:
      return std::make_unique<OrderedColumn<std::string>>(repeated);
  }
}

}  // namespace quern
