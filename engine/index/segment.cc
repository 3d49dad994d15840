#include "engine/index/segment.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/status_macros.h"

namespace quern {
namespace {

static_assert(std::is_trivially_copyable_v<SegmentHeader>);

// Beyond it FAISS's row numbers and this file's offsets would overflow.
constexpr uint64_t kMaxRows = uint64_t{1} << 31;
constexpr uint64_t kMaxDimension = 4096;

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat(
      "a segment of the index is damaged: its ", what, " is wrong"));
}

bool IsRecall(float value) { return value >= 0 && value <= 1; }

// Whether a search can be led by it.
bool IsUsable(const SegmentCalibration& calibration, IndexKind kind) {
  if (calibration.points > kMaxOperatingPoints ||
      !IsRecall(calibration.target_recall) ||
      !IsRecall(calibration.measured_recall)) {
    return false;
  }
  const uint32_t least_depth = kind == IndexKind::kIvfPq ? 1 : 0;
  return std::all_of(calibration.point, calibration.point + calibration.points,
                     [least_depth](const OperatingPoint& point) {
                       return point.effort >= 1 && point.effort <= kMaxEffort &&
                              point.depth >= least_depth &&
                              point.depth <= kMaxDepth &&
                              IsRecall(point.recall);
                     });
}

}  // namespace

uint64_t IdTableSize(int64_t rows) {
  uint64_t size = 2;
  while (size * 2 < static_cast<uint64_t>(rows) * 3) size *= 2;
  return size;
}

// FNV-1a with a final mix (Murmur3's): ids may differ in one digit only.
uint64_t IdHash(absl::string_view id) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : id) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3;
  }
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCD;
  return hash ^ (hash >> 33);
}

Segment::Segment(HugeBuffer image)
    : serial_([] {
        static std::atomic<uint64_t> next = 0;
        return next.fetch_add(1, std::memory_order_relaxed);
      }()),
      image_(std::move(image)) {}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Parse(HugeBuffer image) {
  std::shared_ptr<Segment> segment(new Segment(std::move(image)));
  QUERN_RETURN_IF_ERROR(segment->Read());
  return segment;
}

template <typename T>
const T* Segment::SectionOf(SegmentHeader::Section section,
                            uint64_t count) const {
  const SegmentHeader::Extent& extent = header_.sections[section];
  if (extent.size != count * sizeof(T)) return nullptr;
  return reinterpret_cast<const T*>(image_.data() + extent.offset);
}

absl::Status Segment::Read() {
  if (image_.size() < sizeof(SegmentHeader)) return Damaged("size");
  std::memcpy(&header_, image_.data(), sizeof(header_));
  const SegmentHeader& h = header_;
  if (std::memcmp(h.magic, SegmentHeader::kMagic, sizeof(h.magic)) != 0 ||
      h.size > image_.size()) {
    return Damaged("header");
  }
  if (h.version != SegmentHeader::kVersion) {
    return absl::DataLossError(
        absl::StrCat("a segment of the index has format ", h.version,
                     "; this version reads ", SegmentHeader::kVersion));
  }
  if (h.rows < 1 || h.rows >= kMaxRows || h.dimension < 1 ||
      h.dimension > kMaxDimension || h.storage < 1 || h.storage > 3 ||
      h.kind < static_cast<uint32_t>(IndexKind::kExact) ||
      h.kind > static_cast<uint32_t>(IndexKind::kIvfPq) || h.metric > 1) {
    return Damaged("header");
  }
  if (!IsUsable(h.calibration, kind())) return Damaged("calibration");
  for (const SegmentHeader::Extent& extent : h.sections) {
    if (extent.offset % kCacheLineBytes != 0 || extent.offset > h.size ||
        extent.size > h.size - extent.offset) {
      return Damaged("list of sections");
    }
  }
  codes_.storage = static_cast<VectorStorage>(h.storage);
  codes_.row_bytes =
      RowBytes(codes_.storage, static_cast<int64_t>(h.dimension));
  codes_.codes =
      SectionOf<uint8_t>(SegmentHeader::kCodes, h.rows * codes_.row_bytes);
  codes_.scales =
      SectionOf<CodeScale>(SegmentHeader::kScales,
                           codes_.storage == VectorStorage::kFp32 ? 0 : h.rows);
  id_offsets_ = SectionOf<uint32_t>(SegmentHeader::kIdOffsets, h.rows + 1);
  row_numbers_ = SectionOf<uint32_t>(SegmentHeader::kRowNumbers, h.rows);
  id_table_size_ = IdTableSize(static_cast<int64_t>(h.rows));
  id_table_ = SectionOf<uint32_t>(SegmentHeader::kIdTable, id_table_size_);
  if (codes_.codes == nullptr || codes_.scales == nullptr ||
      id_offsets_ == nullptr || row_numbers_ == nullptr ||
      id_table_ == nullptr) {
    return Damaged("list of sections");
  }
  id_bytes_ = reinterpret_cast<const char*>(
      image_.data() + h.sections[SegmentHeader::kIdBytes].offset);
  if (id_offsets_[h.rows] != h.sections[SegmentHeader::kIdBytes].size ||
      !std::is_sorted(id_offsets_, id_offsets_ + h.rows + 1)) {
    return Damaged("list of ids");
  }
  if (std::adjacent_find(row_numbers_, row_numbers_ + h.rows,
                         std::greater_equal<>()) != row_numbers_ + h.rows) {
    return Damaged("list of rows");
  }
  uint64_t used = 0;
  for (uint64_t i = 0; i < id_table_size_; ++i) {
    if (id_table_[i] == kEmptySlot) continue;
    if (id_table_[i] >= h.rows) return Damaged("table of ids");
    ++used;
  }
  // Otherwise a look-up would not end.
  if (used != h.rows) return Damaged("table of ids");
  const SegmentHeader::Extent& ann = h.sections[SegmentHeader::kAnn];
  const uint8_t* ann_bytes = image_.data() + ann.offset;
  switch (kind()) {
    case IndexKind::kHnsw: {
      QUERN_ASSIGN_OR_RETURN(
          graph_,
          HnswGraph::Parse({reinterpret_cast<const uint32_t*>(ann_bytes),
                            ann.size / sizeof(uint32_t)},
                           rows()));
      return absl::OkStatus();
    }
    case IndexKind::kIvfPq: {
      QUERN_ASSIGN_OR_RETURN(ivf_,
                             IvfPq::Parse({ann_bytes, ann.size}, rows(),
                                          static_cast<int64_t>(h.dimension)));
      return absl::OkStatus();
    }
    default: {
      if (ann.size == 0) return absl::OkStatus();
      const size_t block_bytes =
          BinaryCoder::BlockBytes(static_cast<int64_t>(h.dimension));
      if (ann.size != h.rows / kBinaryBlockRows * block_bytes) {
        return Damaged("list of sections");
      }
      binary_rows_ = {.block_bytes = block_bytes, .blocks = ann_bytes};
      return absl::OkStatus();
    }
  }
}

std::optional<uint32_t> Segment::Find(absl::string_view wanted) const {
  const uint64_t mask = id_table_size_ - 1;
  for (uint64_t slot = IdHash(wanted) & mask; id_table_[slot] != kEmptySlot;
       slot = (slot + 1) & mask) {
    if (id(id_table_[slot]) == wanted) return id_table_[slot];
  }
  return std::nullopt;
}

std::optional<uint32_t> Segment::FindRowNumber(uint32_t number) const {
  const uint32_t* end = row_numbers_ + rows();
  const uint32_t* found = std::lower_bound(row_numbers_, end, number);
  if (found == end || *found != number) return std::nullopt;
  return static_cast<uint32_t>(found - row_numbers_);
}

const OperatingPoint* Segment::PointFor(std::optional<float> recall) const {
  const SegmentCalibration& calibration = header_.calibration;
  if (kind() == IndexKind::kExact) return nullptr;
  const float wanted = recall.value_or(calibration.target_recall);
  if (wanted >= 1) return nullptr;
  for (uint32_t i = 0; i < calibration.points; ++i) {
    if (calibration.point[i].recall >= wanted) return &calibration.point[i];
  }
  return nullptr;
}

int64_t Segment::memory_bytes() const {
  return static_cast<int64_t>(header_.size) +
         (ivf_ == nullptr ? 0 : ivf_->memory_bytes());
}

}  // namespace quern
