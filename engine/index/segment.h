#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/index/binary_codes.h"
#include "engine/index/hnsw_graph.h"
#include "engine/index/huge_buffer.h"
#include "engine/index/ivf_pq.h"
#include "engine/index/kernels.h"
#include "engine/index/vector_index.h"

namespace quern {

// One way to search a segment, and the recall@10 that it reached on the
// queries of calibration, less a standard error; or on those held out, where it
// reached less than the target on these.
struct OperatingPoint {
  uint32_t effort = 0;  // HNSW: width of the beam. IVF: lists probed.
  uint32_t depth = 0;   // IVF: rows whose codes are compared after the lists.
  float recall = 0;
};

inline constexpr size_t kMaxOperatingPoints = 32;
// Far more than calibration tries, so that nothing made of them overflows.
inline constexpr uint32_t kMaxEffort = 1 << 20;
inline constexpr uint32_t kMaxDepth = 1 << 20;

// What is known of a segment's searches. Plain data: it is stored as it lies.
struct SegmentCalibration {
  float target_recall = 0;
  // On queries held out; never below the target. 1 for kExact.
  float measured_recall = 1;
  // The target was not met, so that every vector is compared.
  uint32_t fell_to_exact = 0;
  uint32_t stored_queries = 0;  // Of the collection's own vectors.
  uint32_t real_queries = 0;    // That users had asked.
  uint32_t points = 0;
  OperatingPoint point[kMaxOperatingPoints];  // From the cheapest on.
};

// What a segment's image begins with. Little-endian, without padding.
struct SegmentHeader {
  static constexpr char kMagic[8] = {'Q', 'U', 'E', 'R', 'N', 'S', 'E', 'G'};
  static constexpr uint32_t kVersion = 1;
  enum Section {
    kIdOffsets,   // rows + 1 x uint32: where each id begins in kIdBytes.
    kIdBytes,     //
    kRowNumbers,  // rows x uint32, rising.
    kIdTable,     // Power of 2 x uint32: open addressing by the id's hash.
    kScales,      // rows x CodeScale; empty for kFp32.
    kCodes,       // rows x row bytes.
    kAnn,         // Of kHnsw or kIvfPq: see HnswGraph and IvfPq. Of kExact:
                  // blocks of BinaryRows, if they are whole; or nothing, as
                  // older servers wrote.
    kSections
  };
  struct Extent {
    uint64_t offset = 0;  // A multiple of kCacheLineBytes.
    uint64_t size = 0;
  };

  char magic[8] = {};
  uint32_t version = 0;
  uint32_t storage = 0;  // VectorStorage.
  uint32_t kind = 0;     // IndexKind.
  uint32_t metric = 0;   // Metric.
  uint64_t dimension = 0;
  uint64_t rows = 0;
  uint64_t generation = 0;  // Of the index that it belongs to.
  uint64_t file_id = 0;
  uint64_t size = 0;  // Of the whole image.
  Extent sections[kSections];
  SegmentCalibration calibration;
};

// Immutable rows with ids, in one piece of memory that is also the contents of
// its file. Thread-safe.
class Segment {
 public:
  // Checks everything that a search relies on. Errors: kDataLoss.
  static absl::StatusOr<std::shared_ptr<Segment>> Parse(HugeBuffer image);

  // The image again; the segment must not be used any more.
  HugeBuffer TakeImage() { return std::move(image_); }

  // Of no other segment of this process, nor of one that is gone.
  uint64_t serial() const { return serial_; }
  const SegmentHeader& header() const { return header_; }
  absl::Span<const uint8_t> image() const {
    return {image_.data(), static_cast<size_t>(header_.size)};
  }
  int64_t rows() const { return static_cast<int64_t>(header_.rows); }
  IndexKind kind() const { return static_cast<IndexKind>(header_.kind); }
  const CodeRows& codes() const { return codes_; }
  // Of what DecodeRow() gives; no blocks: there are none.
  const BinaryRows& binary_rows() const { return binary_rows_; }
  const SegmentCalibration& calibration() const { return header_.calibration; }
  const HnswGraph& graph() const { return graph_; }
  const IvfPq* ivf() const { return ivf_.get(); }

  absl::string_view id(int64_t row) const {
    return {id_bytes_ + id_offsets_[row],
            id_offsets_[row + 1] - id_offsets_[row]};
  }
  const uint32_t* row_numbers() const { return row_numbers_; }
  std::optional<uint32_t> Find(absl::string_view id) const;
  // The row of a row number.
  std::optional<uint32_t> FindRowNumber(uint32_t number) const;

  // The cheapest way that reached `recall` (null: the target that it was
  // calibrated for); null: none did, or there is none.
  const OperatingPoint* PointFor(std::optional<float> recall) const;

  int64_t memory_bytes() const;

 private:
  explicit Segment(HugeBuffer image);
  absl::Status Read();
  // The section as `count` values of a type; null when it is not of that size.
  template <typename T>
  const T* SectionOf(SegmentHeader::Section section, uint64_t count) const;

  const uint64_t serial_;
  HugeBuffer image_;
  SegmentHeader header_;
  const uint32_t* id_offsets_ = nullptr;
  const char* id_bytes_ = nullptr;
  const uint32_t* row_numbers_ = nullptr;
  const uint32_t* id_table_ = nullptr;
  uint64_t id_table_size_ = 0;
  CodeRows codes_;
  BinaryRows binary_rows_;
  HnswGraph graph_;
  std::unique_ptr<const IvfPq> ivf_;
};

inline constexpr uint32_t kEmptySlot = 0xFFFFFFFF;

// Of a table for so many ids: a power of 2, at most two thirds full.
uint64_t IdTableSize(int64_t rows);
// Where to look first for an id; the same in every process.
uint64_t IdHash(absl::string_view id);

}  // namespace quern
