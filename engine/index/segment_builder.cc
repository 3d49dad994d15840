#include "engine/index/segment_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr int64_t kRecallAt = 10;
constexpr int64_t kSampleQueries = 256;  // Half to calibrate, half to measure.
constexpr int64_t kRowsPerSampleQuery = 20;
// So much is done between two checks, which a caller may use to let others
// have the core: part of a millisecond.
constexpr int64_t kRowsPerCheck = 256;
constexpr uint64_t kMaxIdBytes = 0xFFFFFFFF;
// Beams that calibration tries, and how good is good enough to stop.
constexpr uint32_t kBeams[] = {10,  12,  14,  16,  20,  24,  28,  32,  40,  48,
                               56,  64,  80,  96,  112, 128, 160, 192, 224, 256,
                               320, 384, 448, 512, 640, 768, 896, 1024};
// And the least that reaches the target.
static_assert(std::size(kBeams) + 1 <= kMaxOperatingPoints);
constexpr float kPerfect = 0.9995F;
// More dead rows than live ones: a graph is not worth mending.
constexpr double kMaxDeadOfAdopted = 0.5;
constexpr uint32_t kMaxProbes = 512;
// Texts find what looks right far down the lists of pictures.
constexpr uint32_t kDepths[] = {64, 256, 1024, 4096};

struct Origin {
  uint32_t row_number;
  uint32_t part;
  uint32_t row;
};

std::vector<Origin> LiveRows(absl::Span<const IndexPart> parts) {
  std::vector<Origin> rows;
  for (uint32_t p = 0; p < parts.size(); ++p) {
    for (uint32_t row = 0; row < parts[p].rows; ++row) {
      if (parts[p].IsDead(row)) continue;
      rows.push_back({parts[p].row_number(row), p, row});
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Origin& a, const Origin& b) {
    return a.row_number < b.row_number;
  });
  return rows;
}

uint64_t AlignUp(uint64_t bytes) {
  return (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

// Builds one segment, step by step.
class Builder {
 public:
  Builder(const SegmentOptions& options, absl::Span<const IndexPart> parts,
          absl::Span<const Matrix> real_queries, const VectorReader& reader,
          const std::function<absl::Status()>& check)
      : options_(options),
        parts_(parts),
        real_queries_(real_queries),
        reader_(reader),
        check_(check),
        context_(&clock_, "calibration") {}

  absl::StatusOr<std::shared_ptr<const Segment>> Build() {
    origins_ = LiveRows(parts_);
    if (origins_.empty()) {
      return absl::InvalidArgumentError("no row of the segment lives");
    }
    const IndexKind kind = ChooseKind();
    QUERN_RETURN_IF_ERROR(Allocate(kind));
    QUERN_RETURN_IF_ERROR(CopyRows());
    switch (kind) {
      case IndexKind::kHnsw:
        QUERN_RETURN_IF_ERROR(BuildGraph());
        break;
      case IndexKind::kIvfPq:
        QUERN_RETURN_IF_ERROR(BuildLists());
        break;
      default:
        break;
    }
    if (header_.kind == static_cast<uint32_t>(IndexKind::kExact)) {
      QUERN_RETURN_IF_ERROR(EncodeBits());
    }
    WriteHeader();
    image_.Shrink(header_.size);
    return Segment::Parse(std::move(image_));
  }

 private:
  int64_t rows() const { return static_cast<int64_t>(origins_.size()); }

  IndexKind ChooseKind() const {
    if (options_.kind == IndexKind::kExact || options_.target_recall >= 1 ||
        rows() < options_.min_ann_rows) {
      return IndexKind::kExact;
    }
    return options_.kind == IndexKind::kAuto ? IndexKind::kHnsw : options_.kind;
  }

  CodeRows codes() {
    return {.storage = options_.storage,
            .row_bytes = RowBytes(options_.storage, options_.dimension),
            .codes = SectionData(SegmentHeader::kCodes),
            .scales = options_.storage == VectorStorage::kFp32
                          ? nullptr
                          : reinterpret_cast<const CodeScale*>(
                                SectionData(SegmentHeader::kScales))};
  }

  uint8_t* SectionData(SegmentHeader::Section section) {
    return image_.data() + header_.sections[section].offset;
  }

  absl::Status Allocate(IndexKind kind) {
    std::memcpy(header_.magic, SegmentHeader::kMagic, sizeof(header_.magic));
    header_.version = SegmentHeader::kVersion;
    header_.storage = static_cast<uint32_t>(options_.storage);
    header_.kind = static_cast<uint32_t>(kind);
    header_.metric = static_cast<uint32_t>(options_.metric);
    header_.dimension = static_cast<uint64_t>(options_.dimension);
    header_.rows = static_cast<uint64_t>(rows());
    header_.generation = options_.generation;
    header_.file_id = options_.file_id;
    header_.calibration.target_recall = options_.target_recall;

    uint64_t id_bytes = 0;
    for (const Origin& origin : origins_) {
      id_bytes += parts_[origin.part].id(origin.row).size();
    }
    if (id_bytes > kMaxIdBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the ids of a shard have ", id_bytes,
                       " bytes together: use more shards"));
    }
    const uint64_t n = header_.rows;
    uint64_t at = AlignUp(sizeof(SegmentHeader));
    const auto place = [&](SegmentHeader::Section section, uint64_t bytes) {
      header_.sections[section] = {at, bytes};
      at = AlignUp(at + bytes);
    };
    place(SegmentHeader::kIdOffsets, (n + 1) * sizeof(uint32_t));
    place(SegmentHeader::kIdBytes, id_bytes);
    place(SegmentHeader::kRowNumbers, n * sizeof(uint32_t));
    place(SegmentHeader::kIdTable, IdTableSize(rows()) * sizeof(uint32_t));
    place(SegmentHeader::kScales,
          options_.storage == VectorStorage::kFp32 ? 0 : n * sizeof(CodeScale));
    place(SegmentHeader::kCodes,
          n * RowBytes(options_.storage, options_.dimension));
    place(SegmentHeader::kAnn, 0);
    header_.size = at;
    // The graph's or lists' size is known later, and whether it stays at them;
    // untouched pages cost nothing.
    uint64_t room =
        n / kBinaryBlockRows * BinaryCoder::BlockBytes(options_.dimension);
    if (kind == IndexKind::kHnsw) {
      const HnswOptions hnsw;
      // Each level has a sixteenth of the rows of the one below.
      room =
          std::max(room, n * (2 * hnsw.links + hnsw.links) * sizeof(uint32_t) +
                             (uint64_t{1} << 20));
    } else if (kind == IndexKind::kIvfPq) {
      room = std::max(room, IvfPq::MaxBytes(rows(), options_.dimension, {}));
    }
    QUERN_ASSIGN_OR_RETURN(image_, HugeBuffer::Create(AlignUp(at + room)));
    return absl::OkStatus();
  }

  absl::Status CopyRows() {
    auto* offsets =
        reinterpret_cast<uint32_t*>(SectionData(SegmentHeader::kIdOffsets));
    auto* id_bytes =
        reinterpret_cast<char*>(SectionData(SegmentHeader::kIdBytes));
    auto* numbers =
        reinterpret_cast<uint32_t*>(SectionData(SegmentHeader::kRowNumbers));
    auto* table =
        reinterpret_cast<uint32_t*>(SectionData(SegmentHeader::kIdTable));
    const uint64_t mask = IdTableSize(rows()) - 1;
    std::fill_n(table, mask + 1, kEmptySlot);
    uint32_t at = 0;
    for (uint32_t i = 0; i < origins_.size(); ++i) {
      if (i % kRowsPerCheck == 0) QUERN_RETURN_IF_ERROR(check_());
      const Origin& origin = origins_[i];
      const absl::string_view id = parts_[origin.part].id(origin.row);
      offsets[i] = at;
      std::memcpy(id_bytes + at, id.data(), id.size());
      at += static_cast<uint32_t>(id.size());
      numbers[i] = origin.row_number;
      uint64_t slot = IdHash(id) & mask;
      while (table[slot] != kEmptySlot) slot = (slot + 1) & mask;
      table[slot] = i;
      CopyCodes(origin, i);
    }
    offsets[origins_.size()] = at;
    return absl::OkStatus();
  }

  void CopyCodes(const Origin& origin, uint32_t row) {
    const size_t row_bytes = RowBytes(options_.storage, options_.dimension);
    uint8_t* out = SectionData(SegmentHeader::kCodes) + row * row_bytes;
    CodeScale no_scale;
    CodeScale* scale = options_.storage == VectorStorage::kFp32
                           ? &no_scale
                           : reinterpret_cast<CodeScale*>(
                                 SectionData(SegmentHeader::kScales)) +
                                 row;
    const IndexPart& part = parts_[origin.part];
    if (part.segment == nullptr) {
      EncodeRow(options_.storage, part.delta->vector(origin.row), out, scale);
      return;
    }
    const CodeRows& from = part.segment->codes();
    if (from.storage != options_.storage) {
      decoded_.resize(options_.dimension);
      DecodeRow(from, origin.row, absl::MakeSpan(decoded_));
      EncodeRow(options_.storage, decoded_, out, scale);
      return;
    }
    std::memcpy(out, from.row(origin.row), row_bytes);
    if (from.scales != nullptr) *scale = from.scales[origin.row];
  }

  // Of the rows' whole blocks.
  absl::Status EncodeBits() {
    const BinaryCoder coder(options_.dimension);
    const CodeRows rows_of_codes = codes();
    std::vector<float> vector(options_.dimension);
    const uint64_t blocks = header_.rows / kBinaryBlockRows;
    uint8_t* const bytes = SectionData(SegmentHeader::kAnn);
    // A graph that was not good enough may have been there.
    std::memset(bytes, 0, blocks * coder.block_bytes());
    for (uint64_t row = 0; row < blocks * kBinaryBlockRows; ++row) {
      if (row % kRowsPerCheck == 0) QUERN_RETURN_IF_ERROR(check_());
      DecodeRow(rows_of_codes, row, absl::MakeSpan(vector));
      coder.Encode(vector, row % kBinaryBlockRows,
                   bytes + row / kBinaryBlockRows * coder.block_bytes());
    }
    header_.sections[SegmentHeader::kAnn].size = blocks * coder.block_bytes();
    return absl::OkStatus();
  }

  void WriteHeader() {
    header_.size = header_.sections[SegmentHeader::kAnn].offset +
                   AlignUp(header_.sections[SegmentHeader::kAnn].size);
    std::memcpy(image_.data(), &header_, sizeof(header_));
  }

  // Every how-many-th row is asked for; the graph gets these rows last.
  void ChooseSample() {
    const int64_t wanted =
        std::min(kSampleQueries, rows() / kRowsPerSampleQuery);
    std::mt19937 random(static_cast<unsigned>(rows()));
    for (int64_t i = 0; i < wanted; ++i) {
      const int64_t begin = i * rows() / wanted;
      const int64_t width = (i + 1) * rows() / wanted - begin;
      sample_.push_back(static_cast<uint32_t>(
          begin + random() % std::max<int64_t>(width, 1)));
    }
    // Neighbours in time may be alike: both halves get some of every time.
    std::shuffle(sample_.begin(), sample_.end(), random);
  }

  // The part with the most rows, if its graph is worth beginning with.
  std::optional<uint32_t> PartToAdopt(const HnswOptions& hnsw) const {
    std::optional<uint32_t> best;
    for (uint32_t p = 0; p < parts_.size(); ++p) {
      const IndexPart& part = parts_[p];
      if (part.segment == nullptr ||
          static_cast<double>(part.dead_rows) >
              kMaxDeadOfAdopted * static_cast<double>(part.rows) ||
          !HnswBuilder::CanAdopt(part.segment->graph(), hnsw) ||
          (best.has_value() && part.live_rows() <= parts_[*best].live_rows())) {
        continue;
      }
      best = p;
    }
    return best;
  }

  absl::Status BuildGraph() {
    ChooseSample();
    const absl::flat_hash_set<uint32_t> held_out(sample_.begin(),
                                                 sample_.end());
    const HnswOptions hnsw{.threads = options_.threads};
    const std::optional<uint32_t> adopted = PartToAdopt(hnsw);
    std::vector<uint32_t> row_of(
        adopted.has_value() ? parts_[*adopted].rows : 0, HnswGraph::kNoLink);
    std::vector<uint32_t> first;
    for (uint32_t row = 0; row < origins_.size(); ++row) {
      if (held_out.contains(row)) continue;
      if (origins_[row].part == adopted) {
        row_of[origins_[row].row] = row;
      } else {
        first.push_back(row);
      }
    }
    HnswBuilder builder(codes(), rows(), hnsw);
    if (adopted.has_value()) {
      QUERN_RETURN_IF_ERROR(
          builder.Adopt(parts_[*adopted].segment->graph(), row_of, check_));
    }
    QUERN_RETURN_IF_ERROR(builder.Insert(first, check_));
    const auto pack = [&] {
      auto* words =
          reinterpret_cast<uint32_t*>(SectionData(SegmentHeader::kAnn));
      header_.sections[SegmentHeader::kAnn].size =
          builder.Pack(words) * sizeof(uint32_t);
    };
    if (builder.max_packed_words() * sizeof(uint32_t) >
        image_.size() - header_.sections[SegmentHeader::kAnn].offset) {
      return absl::InternalError("a graph has more levels than expected");
    }
    pack();
    std::vector<OperatingPoint> ways;
    for (const uint32_t beam : kBeams) ways.push_back({.effort = beam});
    QUERN_RETURN_IF_ERROR(Calibrate(ways));
    if (header_.calibration.fell_to_exact != 0) return absl::OkStatus();
    QUERN_RETURN_IF_ERROR(builder.Insert(sample_, check_));
    pack();
    return absl::OkStatus();
  }

  absl::Status BuildLists() {
    ChooseSample();
    const CodeRows rows_of_codes = codes();
    QUERN_ASSIGN_OR_RETURN(const std::string bytes,
                           IvfPq::Build(
                               rows(), options_.dimension,
                               [&](int64_t row, absl::Span<float> out) {
                                 DecodeRow(rows_of_codes, row, out);
                               },
                               {}, check_));
    std::memcpy(SectionData(SegmentHeader::kAnn), bytes.data(), bytes.size());
    header_.sections[SegmentHeader::kAnn].size = bytes.size();
    std::vector<OperatingPoint> ways;
    for (uint32_t probes = 1; probes <= kMaxProbes; probes *= 2) {
      for (const uint32_t depth : kDepths) {
        ways.push_back({.effort = probes, .depth = depth});
      }
    }
    // A row in a probed list costs a small part of one whose codes are
    // compared.
    const auto lists = static_cast<double>(2 * std::sqrt(rows()));
    const auto cost = [&](const OperatingPoint& way) {
      return way.effort * (static_cast<double>(rows()) / lists) / 16 +
             way.depth;
    };
    std::stable_sort(ways.begin(), ways.end(),
                     [&](const OperatingPoint& a, const OperatingPoint& b) {
                       return cost(a) < cost(b);
                     });
    return Calibrate(ways);
  }

  // One set of queries with what exact search finds.
  struct Questions {
    std::vector<EncodedQuery> queries;
    std::vector<absl::flat_hash_set<std::string>> truth;
  };

  absl::Status AskExactly(const IndexPart& part, Questions& questions) {
    std::vector<Candidates> candidates(questions.queries.size(),
                                       Candidates(kRecallAt, {&part, 1}));
    for (int64_t row = 0; row < part.rows; row += kTileRows) {
      QUERN_RETURN_IF_ERROR(check_());
      QUERN_RETURN_IF_ERROR(
          ScanPart(context_, {.part = part, .metric = options_.metric},
                   questions.queries, row, std::min(row + kTileRows, part.rows),
                   absl::MakeSpan(candidates)));
    }
    for (size_t q = 0; q < questions.queries.size(); ++q) {
      QUERN_ASSIGN_OR_RETURN(
          const std::vector<ScoredId> found,
          candidates[q].Take(questions.queries[q], options_.metric, {reader_},
                             ErrorSigmas(options_.target_recall)));
      absl::flat_hash_set<std::string>& truth = questions.truth.emplace_back();
      for (const ScoredId& hit : found) truth.insert(hit.id);
    }
    return absl::OkStatus();
  }

  struct Recall {
    float mean = 1;
    float error = 0;  // Standard, over queries: a query's answers are alike.

    // The queries are a sample.
    float Cautious() const { return mean - error; }
  };

  absl::StatusOr<Recall> RecallAt(const IndexPart& part,
                                  const Questions& questions,
                                  const OperatingPoint& way) {
    const SearchedPart searched{.part = part, .metric = options_.metric};
    std::vector<ScoredRow> rows;
    const auto queries = static_cast<double>(questions.queries.size());
    double sum = 0;
    double squares = 0;
    for (size_t q = 0; q < questions.queries.size(); ++q) {
      QUERN_RETURN_IF_ERROR(check_());
      Candidates candidates(kRecallAt, {&part, 1});
      const EncodedQuery& query = questions.queries[q];
      if (part.segment->ivf() != nullptr) {
        QUERN_ASSIGN_OR_RETURN(
            const std::vector<std::vector<uint32_t>> lists,
            part.segment->ivf()->Search({.data = query.vector().data(),
                                         .rows = 1,
                                         .columns = query.dimension()},
                                        way.effort, way.depth, check_));
        QUERN_RETURN_IF_ERROR(ScanRows(context_, searched, query,
                                       WantedRows(searched, lists[0]),
                                       candidates));
      } else {
        QUERN_RETURN_IF_ERROR(
            SearchGraph(context_, searched, query, way.effort, &rows));
        AddFound(searched, query, rows, candidates);
      }
      QUERN_ASSIGN_OR_RETURN(
          const std::vector<ScoredId> hits,
          candidates.Take(query, options_.metric, {reader_},
                          ErrorSigmas(options_.target_recall)));
      const auto& truth = questions.truth[q];
      const auto found = static_cast<double>(std::count_if(
          hits.begin(), hits.end(),
          [&](const ScoredId& hit) { return truth.contains(hit.id); }));
      const double recall =
          truth.empty() ? 1 : found / static_cast<double>(truth.size());
      sum += recall;
      squares += recall * recall;
    }
    const double mean = sum / queries;
    const double variance = std::max(0.0, squares / queries - mean * mean);
    return Recall{
        static_cast<float>(mean),
        static_cast<float>(std::sqrt(variance / std::max(queries - 1, 1.0)))};
  }

  // The worst of the recalls on the sets.
  absl::StatusOr<float> WorstRecall(const IndexPart& part,
                                    absl::Span<const Questions> sets,
                                    const OperatingPoint& way, bool cautious) {
    float worst = 1;
    for (const Questions& questions : sets) {
      QUERN_ASSIGN_OR_RETURN(const Recall recall,
                             RecallAt(part, questions, way));
      worst = std::min(worst, cautious ? recall.Cautious() : recall.mean);
    }
    return worst;
  }

  absl::Status Calibrate(absl::Span<const OperatingPoint> ways) {
    WriteHeader();
    // The image is lent to a segment to be searched.
    QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Segment> segment,
                           Segment::Parse(std::move(image_)));
    absl::Status status = CalibrateSegment(segment, ways);
    image_ = segment->TakeImage();
    return status;
  }

  absl::Status CalibrateSegment(const std::shared_ptr<Segment>& segment,
                                absl::Span<const OperatingPoint> ways) {
    // The sample itself is not to be found: its graph does not have it.
    auto dead = std::make_shared<std::vector<uint64_t>>((rows() + 63) / 64);
    for (const uint32_t row : sample_) {
      (*dead)[row / 64] |= uint64_t{1} << (row % 64);
    }
    const IndexPart part{.segment = segment,
                         .rows = rows(),
                         .dead = dead,
                         .dead_rows = static_cast<int64_t>(sample_.size())};
    SegmentCalibration& result = header_.calibration;
    std::vector<Questions> calibrate;
    std::vector<Questions> measure;
    const auto add = [&](const Matrix& queries) -> absl::Status {
      std::vector<Questions>* halves[] = {&calibrate, &measure};
      for (std::vector<Questions>* half : halves) half->emplace_back();
      for (int64_t i = 0; i < queries.rows(); ++i) {
        halves[i % 2]->back().queries.emplace_back(queries.row(i));
      }
      QUERN_RETURN_IF_ERROR(AskExactly(part, calibrate.back()));
      return AskExactly(part, measure.back());
    };
    Matrix stored(static_cast<int64_t>(sample_.size()), options_.dimension);
    for (size_t i = 0; i < sample_.size(); ++i) {
      DecodeRow(segment->codes(), sample_[i],
                stored.row(static_cast<int64_t>(i)));
    }
    QUERN_RETURN_IF_ERROR(add(stored));
    result.stored_queries = static_cast<uint32_t>(sample_.size());
    for (const Matrix& queries : real_queries_) {
      if (queries.rows() < static_cast<int64_t>(kMinRealQueries)) continue;
      QUERN_RETURN_IF_ERROR(add(queries));
      result.real_queries += static_cast<uint32_t>(queries.rows());
    }
    float best = -1;
    uint32_t too_little = 0;  // Effort, before the target is reached.
    bool reached = false;     // On the queries of calibration.
    bool met = false;         // On the others, too.
    const auto keep = [&](OperatingPoint way) -> absl::Status {
      if (!met && way.recall >= result.target_recall) {
        QUERN_ASSIGN_OR_RETURN(
            const float measured,
            WorstRecall(part, measure, way, /*cautious=*/false));
        met = measured >= result.target_recall;
        if (met) {
          result.measured_recall = measured;
        } else {
          way.recall = measured;
        }
      }
      // A dearer way that finds no more is of no use.
      if (way.recall <= best) return absl::OkStatus();
      best = way.recall;
      // Where there is no more room the dearest gives way.
      if (result.points == std::size(result.point)) --result.points;
      result.point[result.points++] = way;
      return absl::OkStatus();
    };
    for (OperatingPoint way : ways) {
      QUERN_ASSIGN_OR_RETURN(
          way.recall, WorstRecall(part, calibrate, way, /*cautious=*/true));
      if (!reached && way.recall >= result.target_recall) {
        reached = true;
        if (header_.kind == static_cast<uint32_t>(IndexKind::kHnsw)) {
          QUERN_ASSIGN_OR_RETURN(const OperatingPoint least,
                                 LeastBeam(part, calibrate, too_little, way));
          if (least.effort < way.effort) QUERN_RETURN_IF_ERROR(keep(least));
        }
      }
      too_little = way.effort;
      QUERN_RETURN_IF_ERROR(keep(way));
      if (met && best >= std::max(kPerfect, result.target_recall)) break;
    }
    if (met) return absl::OkStatus();
    result.fell_to_exact = 1;
    result.points = 0;
    header_.kind = static_cast<uint32_t>(IndexKind::kExact);
    header_.sections[SegmentHeader::kAnn].size = 0;
    return absl::OkStatus();
  }

  // The narrowest beam, wider than `too_little`, that reaches the target;
  // `enough` does.
  absl::StatusOr<OperatingPoint> LeastBeam(const IndexPart& part,
                                           absl::Span<const Questions> sets,
                                           uint32_t too_little,
                                           OperatingPoint enough) {
    while (enough.effort - too_little > 1) {
      OperatingPoint middle{.effort = (too_little + enough.effort) / 2};
      QUERN_ASSIGN_OR_RETURN(
          middle.recall, WorstRecall(part, sets, middle, /*cautious=*/true));
      if (middle.recall >= header_.calibration.target_recall) {
        enough = middle;
      } else {
        too_little = middle.effort;
      }
    }
    return enough;
  }

  const SegmentOptions& options_;
  const absl::Span<const IndexPart> parts_;
  const absl::Span<const Matrix> real_queries_;
  const VectorReader& reader_;
  const std::function<absl::Status()>& check_;
  const RealClock clock_;
  const RequestContext context_;
  std::vector<Origin> origins_;
  std::vector<uint32_t> sample_;
  std::vector<float> decoded_;
  SegmentHeader header_;
  HugeBuffer image_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Segment>> BuildSegment(
    const SegmentOptions& options, absl::Span<const IndexPart> parts,
    absl::Span<const Matrix> real_queries, const VectorReader& reader,
    const std::function<absl::Status()>& check) {
  Builder builder(options, parts, real_queries, reader, check);
  return builder.Build();
}

}  // namespace quern
