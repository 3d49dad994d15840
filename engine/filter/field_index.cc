#include "engine/filter/field_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <zlib.h>

#include "engine/filter/field_column.h"

namespace quern {
namespace {

// Removed rows are swept once there are as many as this, and this share of the
// rows that are left: a sweep then costs each removal a fixed amount.
constexpr int64_t kMinDeadRows = 4096;
constexpr int64_t kDeadShare = 4;

constexpr absl::string_view kMagic = "QNFI";
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kHeaderBytes = 4 + sizeof(uint32_t);
constexpr size_t kChecksumBytes = sizeof(uint32_t);

static_assert(std::endian::native == std::endian::little,
              "the index is little-endian");

void AppendUint32(uint32_t number, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

uint32_t Uint32At(absl::string_view bytes, size_t position) {
  uint32_t number = 0;
  std::memcpy(&number, bytes.data() + position, sizeof(number));
  return number;
}

uint32_t Checksum(absl::string_view bytes) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("index of payload fields: ", what,
                                          "; it has to be made again"));
}

void AppendDeclaration(const FieldDeclaration& field, std::string& bytes) {
  AppendVarint(field.path.size(), bytes);
  bytes += field.path;
  bytes.push_back(static_cast<char>(field.type));
  bytes.push_back(field.repeated ? '\1' : '\0');
}

bool TakeDeclaration(absl::string_view& bytes, FieldDeclaration& field) {
  uint64_t size = 0;
  if (!TakeVarint(bytes, size) || size > bytes.size() ||
      bytes.size() - size < 2) {
    return false;
  }
  field.path = std::string(bytes.substr(0, size));
  const auto type = static_cast<uint8_t>(bytes[size]);
  const auto repeated = static_cast<uint8_t>(bytes[size + 1]);
  bytes.remove_prefix(size + 2);
  if (type > static_cast<uint8_t>(FieldType::kTimestamp) || repeated > 1) {
    return false;
  }
  field.type = static_cast<FieldType>(type);
  field.repeated = repeated == 1;
  return true;
}

bool TakeDeclarations(absl::string_view& bytes,
                      std::vector<FieldDeclaration>& fields) {
  uint64_t count = 0;
  if (!TakeVarint(bytes, count)) return false;
  for (; count > 0; --count) {
    if (!TakeDeclaration(bytes, fields.emplace_back())) return false;
  }
  return true;
}

bool TakeModalities(absl::string_view& bytes, uint64_t row_limit,
                    const RowSet& live, std::map<int32_t, RowSet>& modalities) {
  uint64_t count = 0;
  if (!TakeVarint(bytes, count)) return false;
  for (; count > 0; --count) {
    uint64_t modality = 0;
    RowSet rows;
    if (!TakeVarint(bytes, modality) || modality > UINT32_MAX ||
        !RowSet::Take(bytes, row_limit, rows) || !rows.IsSubsetOf(live)) {
      return false;
    }
    const auto key = static_cast<int32_t>(static_cast<uint32_t>(modality));
    if (!modalities.emplace(key, std::move(rows)).second) return false;
  }
  return true;
}

bool IsComparison(const FilterNode& node) { return node.children.empty(); }

}  // namespace

FieldIndex::FieldIndex(absl::Span<const FieldDeclaration> fields)
    : fields_(fields.begin(), fields.end()) {
  for (const FieldDeclaration& field : fields_) {
    columns_.push_back(FieldColumn::Create(field.type, field.repeated));
  }
}

FieldIndex::FieldIndex(FieldIndex&&) noexcept = default;
FieldIndex& FieldIndex::operator=(FieldIndex&&) noexcept = default;
FieldIndex::~FieldIndex() = default;

void FieldIndex::Add(uint32_t row, const FieldValues& values) {
  live_.Add(row);
  modalities_[values.modality].Add(row);
  for (const auto& [field, value] : values.entries) {
    if (field < fields_.size() &&
        value.index() == static_cast<size_t>(fields_[field].type)) {
      columns_[field]->Add(value, row);
    }
  }
}

void FieldIndex::Remove(uint32_t row) {
  if (!live_.Remove(row)) return;
  dead_.Add(row);
  SweepStep();
}

void FieldIndex::KeepOnly(const RowSet& rows) {
  RowSet gone = live_;
  gone -= rows;
  live_ &= rows;
  dead_ |= gone;
}

void FieldIndex::SweepStep() {
  if (sweeping_.empty()) {
    if (dead_.size() < std::max(kMinDeadRows, live_.size() / kDeadShare)) {
      return;
    }
    sweeping_ = dead_;
    sweep_column_ = 0;
    sweep_group_ = 0;
  }
  if (sweep_column_ < columns_.size()) {
    sweep_group_ = columns_[sweep_column_]->Sweep(sweep_group_, sweeping_);
    if (sweep_group_ != FieldColumn::kSwept) return;
    sweep_group_ = 0;
    if (++sweep_column_ < columns_.size()) return;
  }
  for (auto& [modality, rows] : modalities_) rows -= sweeping_;
  dead_ -= sweeping_;
  sweeping_ = RowSet();
}

const FieldColumn* FieldIndex::ColumnOf(const FilterNode& node) const {
  return node.field < columns_.size() ? columns_[node.field].get() : nullptr;
}

RowSet FieldIndex::OfModalities(absl::Span<const int32_t> modalities) const {
  RowSet rows;
  for (const int32_t modality : modalities) {
    const auto place = modalities_.find(modality);
    if (place != modalities_.end()) rows |= place->second;
  }
  return rows;
}

RowSet FieldIndex::Match(const Filter* filter,
                         absl::Span<const int32_t> modalities) const {
  if (filter == nullptr && modalities.empty()) return live_;
  RowSet rows =
      filter == nullptr ? OfModalities(modalities) : MatchNode(filter->root());
  rows &= live_;
  if (filter != nullptr && !modalities.empty()) {
    rows &= OfModalities(modalities);
  }
  return rows;
}

// May hold removed rows.
RowSet FieldIndex::MatchNode(const FilterNode& node) const {
  switch (node.op) {
    case FilterOp::kAnd:
      return MatchAll(node);
    case FilterOp::kOr: {
      std::vector<RowSet> sets;
      std::vector<const RowSet*> pointers;
      sets.reserve(node.children.size());
      for (const FilterNode& child : node.children) {
        pointers.push_back(&sets.emplace_back(MatchNode(child)));
      }
      return RowSet::UnionOf(pointers);
    }
    case FilterOp::kNot: {
      RowSet rows = live_;
      rows -= MatchNode(node.children[0]);
      return rows;
    }
    default: {
      const FieldColumn* column = ColumnOf(node);
      return column == nullptr ? RowSet() : column->Match(node);
    }
  }
}

// Comparisons first, from the rarest on: what is empty ends it.
RowSet FieldIndex::MatchAll(const FilterNode& node) const {
  std::vector<std::pair<int64_t, const FilterNode*>> order;
  for (const FilterNode& child : node.children) {
    order.emplace_back(
        IsComparison(child) ? EstimateNode(child).upper : INT64_MAX, &child);
  }
  std::stable_sort(
      order.begin(), order.end(),
      [](const auto& a, const auto& b) { return a.first < b.first; });
  RowSet rows = order.front().second->op == FilterOp::kNot
                    ? live_
                    : MatchNode(*order.front().second);
  for (const auto& [estimate, child] : order) {
    if (rows.empty()) break;
    if (child->op == FilterOp::kNot) {
      rows -= MatchNode(child->children[0]);
    } else if (child != order.front().second) {
      rows &= MatchNode(*child);
    }
  }
  return rows;
}

int64_t FieldIndex::Estimate(const Filter* filter,
                             absl::Span<const int32_t> modalities) const {
  int64_t rows = live_.size();
  if (filter != nullptr) rows = EstimateNode(filter->root()).upper;
  if (modalities.empty()) return rows;
  return std::min(rows, OfModalities(modalities).size());
}

FieldIndex::Bounds FieldIndex::EstimateNode(const FilterNode& node) const {
  const int64_t all = live_.size();
  switch (node.op) {
    case FilterOp::kAnd: {
      Bounds bounds{.lower = all, .upper = all};
      for (const FilterNode& child : node.children) {
        const Bounds of_child = EstimateNode(child);
        // Those that miss one side and those that miss the other add up.
        bounds.lower =
            std::max<int64_t>(0, bounds.lower - all + of_child.lower);
        bounds.upper = std::min(bounds.upper, of_child.upper);
      }
      return bounds;
    }
    case FilterOp::kOr: {
      Bounds bounds{.lower = 0, .upper = 0};
      for (const FilterNode& child : node.children) {
        const Bounds of_child = EstimateNode(child);
        bounds.lower = std::max(bounds.lower, of_child.lower);
        bounds.upper = std::min(all, bounds.upper + of_child.upper);
      }
      return bounds;
    }
    case FilterOp::kNot: {
      const Bounds of_child = EstimateNode(node.children[0]);
      return {.lower = all - of_child.upper, .upper = all - of_child.lower};
    }
    default: {
      const FieldColumn* column = ColumnOf(node);
      if (column == nullptr) return {.lower = 0, .upper = 0};
      const FieldColumn::Count count = column->Estimate(node);
      return {.lower = std::max<int64_t>(0, count.lower - dead_.size()),
              .upper = std::min(all, count.upper)};
    }
  }
}

FieldIndexWriter::FieldIndexWriter(const FieldIndex& index)
    : index_(index), live_(index.live_), modalities_(index.modalities_) {}

bool FieldIndexWriter::Step() {
  if (column_ == index_.columns_.size()) return false;
  if (index_.columns_[column_]->AppendSome(live_, &after_, &count_, &values_)) {
    return true;
  }
  AppendVarint(count_, columns_);
  columns_ += values_;
  values_.clear();
  count_ = 0;
  after_.reset();
  return ++column_ < index_.columns_.size();
}

std::string FieldIndexWriter::Take() {
  while (Step()) {
  }
  std::string bytes(kMagic);
  AppendUint32(kFormatVersion, bytes);
  AppendVarint(index_.fields_.size(), bytes);
  for (const FieldDeclaration& field : index_.fields_) {
    AppendDeclaration(field, bytes);
  }
  live_.AppendTo(bytes);
  AppendVarint(modalities_.size(), bytes);
  for (const auto& [modality, rows] : modalities_) {
    AppendVarint(static_cast<uint32_t>(modality), bytes);
    RowSet live = rows;
    live &= live_;
    live.AppendTo(bytes);
  }
  bytes += std::exchange(columns_, {});
  AppendUint32(Checksum(bytes), bytes);
  return bytes;
}

absl::StatusOr<FieldIndex> FieldIndex::Parse(absl::string_view bytes,
                                             uint64_t row_limit) {
  if (bytes.size() < kHeaderBytes + kChecksumBytes ||
      !absl::StartsWith(bytes, kMagic)) {
    return Damaged("it is cut short or none");
  }
  const absl::string_view checked =
      bytes.substr(0, bytes.size() - kChecksumBytes);
  if (Checksum(checked) != Uint32At(bytes, checked.size())) {
    return Damaged("its checksum is wrong");
  }
  // Behind the checksum: a damaged version is damage.
  const uint32_t version = Uint32At(bytes, kMagic.size());
  if (version != kFormatVersion) {
    return Damaged(absl::StrCat("its format version is ", version,
                                ", this server reads ", kFormatVersion));
  }
  return ParseBody(checked.substr(kHeaderBytes), row_limit);
}

absl::StatusOr<FieldIndex> FieldIndex::ParseBody(absl::string_view body,
                                                 uint64_t row_limit) {
  std::vector<FieldDeclaration> fields;
  if (!TakeDeclarations(body, fields)) return Damaged("bad declarations");
  FieldIndex index(fields);
  if (!RowSet::Take(body, row_limit, index.live_)) {
    return Damaged(
        absl::StrCat("bad rows, or one above the limit of ", row_limit));
  }
  if (!TakeModalities(body, row_limit, index.live_, index.modalities_)) {
    return Damaged("bad modalities");
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    if (!index.columns_[i]->Take(body, row_limit, index.live_)) {
      return Damaged(absl::StrCat("bad values of field ", i));
    }
  }
  if (!body.empty()) return Damaged("more bytes than it needs");
  return index;
}

}  // namespace quern
