// Files that a snapshot from elsewhere may bring. The first byte says what the
// rest is: 's' a segment, 'm' the inside of an index's manifest, 'j' a
// snapshot's manifest, 't' its tar. Checksums are made to fit, since they would
// keep every change out and do not stop whoever means harm.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/base/utf8.h"
#include "engine/index/candidates.h"
#include "engine/index/index_files.h"
#include "engine/index/plain_bytes.h"
#include "engine/index/search_run.h"
#include "engine/index/segment.h"
#include "engine/index/segment_builder.h"
#include "engine/snapshot/archive.h"
#include "engine/snapshot/manifest.h"
#include "tests/fuzz/require.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHits = 5;
// A search reads each row; beyond, a target is only slow.
constexpr int64_t kMaxValues = 1 << 20;
constexpr size_t kTarPieceBytes = 700;
constexpr uint32_t kNewestManifest = 2;

// In memory where the system has such a folder: files are synced.
const std::string& Folder() {
  static const auto* folder = new std::string(absl::StrCat(
      fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string(),
      "/quern-index-fuzz-", getpid()));
  return *folder;
}

// Empty at its begin, gone at its end.
class Scratch {
 public:
  Scratch() {
    fs::remove_all(Folder());
    fs::create_directories(Folder());
  }
  ~Scratch() { fs::remove_all(Folder()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// As an index does it, in the segment's own ways.
void RunSearch(const IndexPart& part, absl::Span<const float> values, int64_t k,
               std::optional<float> recall) {
  static const RealClock clock;
  static const VectorReader none;
  const RequestContext context(&clock, "fuzz");
  const Segment& segment = *part.segment;
  const BinaryCoder coder(static_cast<int64_t>(values.size()));
  const SearchRunOptions index{
      .metric = static_cast<Metric>(segment.header().metric),
      .reader = &none,
      .coder = &coder};
  const Matrix queries(1, static_cast<int64_t>(values.size()),
                       {values.begin(), values.end()});
  const VectorSearchOptions options{.k = k, .recall = recall};
  SearchRun run(index, context, {&part, 1}, queries, options);
  const auto hits = run.Run();
  QUERN_FUZZ_REQUIRE(hits.ok());
  QUERN_FUZZ_REQUIRE(hits->front().size() <= static_cast<size_t>(k));
  QUERN_FUZZ_REQUIRE(!run.Explain().empty());
}

// Whatever a plan would rather do.
void FollowPoint(const IndexPart& part, absl::Span<const float> values,
                 const OperatingPoint& point) {
  static const RealClock clock;
  const RequestContext context(&clock, "fuzz");
  const Segment& segment = *part.segment;
  const SearchedPart searched{
      .part = part, .metric = static_cast<Metric>(segment.header().metric)};
  const EncodedQuery query(values);
  Candidates candidates(kHits, {&part, 1});
  if (!segment.graph().empty()) {
    std::vector<ScoredRow> found;
    QUERN_FUZZ_REQUIRE(
        SearchGraph(context, searched, query, point.effort, &found).ok());
    AddFound(searched, query, found, candidates);
  }
  if (segment.ivf() != nullptr) {
    const auto rows = segment.ivf()->Search(
        {.data = values.data(),
         .rows = 1,
         .columns = static_cast<int64_t>(values.size())},
        point.effort, point.depth, [] { return absl::OkStatus(); });
    QUERN_FUZZ_REQUIRE(rows.ok());
    QUERN_FUZZ_REQUIRE(ScanRows(context, searched, query,
                                WantedRows(searched, rows->front()), candidates)
                           .ok());
  }
  const auto hits =
      candidates.Take(query, searched.metric, {nullptr}, searched.sigmas);
  QUERN_FUZZ_REQUIRE(hits.ok());
  QUERN_FUZZ_REQUIRE(hits->size() <= static_cast<size_t>(kHits));
}

void SearchSegment(const IndexPart& part) {
  const Segment& segment = *part.segment;
  std::vector<float> values(segment.header().dimension, 0.25F);
  values[0] = 1;
  for (const int64_t k : {int64_t{1}, kHits, 8 * kHits}) {
    RunSearch(part, values, k, std::nullopt);
    RunSearch(part, values, k, 1.0F);
  }
  const SegmentCalibration& calibration = segment.calibration();
  for (uint32_t i = 0; i < calibration.points; ++i) {
    const OperatingPoint& point = calibration.point[i];
    if (point.recall > 0) RunSearch(part, values, 1, point.recall);
    FollowPoint(part, values, point);
  }
}

// As the index does it, which goes on with a graph that is there.
void MergeSegment(const IndexPart& part) {
  const SegmentHeader& header = part.segment->header();
  const auto merged =
      BuildSegment({.dimension = static_cast<int64_t>(header.dimension),
                    .metric = static_cast<Metric>(header.metric),
                    .storage = static_cast<VectorStorage>(header.storage),
                    .kind = IndexKind::kHnsw,
                    .target_recall = 0.01F,
                    .min_ann_rows = 1},
                   {&part, 1}, {}, nullptr, absl::OkStatus);
  QUERN_FUZZ_REQUIRE(merged.ok());
  QUERN_FUZZ_REQUIRE((*merged)->rows() == part.live_rows());
}

void RunSegment(absl::string_view bytes) {
  auto image = HugeBuffer::Create(std::max<size_t>(bytes.size(), 1));
  QUERN_FUZZ_REQUIRE(image.ok());
  std::memcpy(image->data(), bytes.data(), bytes.size());
  const auto parsed = Segment::Parse(*std::move(image));
  if (!parsed.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(parsed.status()));
    return;
  }
  const std::shared_ptr<const Segment> segment = *parsed;
  const int64_t rows = segment->rows();
  const auto dimension = static_cast<int64_t>(segment->header().dimension);
  size_t id_bytes = 0;
  for (int64_t row = 0; row < rows; ++row) id_bytes += segment->id(row).size();
  QUERN_FUZZ_REQUIRE(id_bytes <= bytes.size());
  (void)segment->Find("1");
  (void)segment->PointFor(0.9F);
  QUERN_FUZZ_REQUIRE(segment->FindRowNumber(segment->row_numbers()[0]) == 0U);
  if (rows * dimension > kMaxValues) return;
  SearchSegment({.segment = segment, .rows = rows});
  MergeSegment({.segment = segment, .rows = rows});
}

void RunManifest(absl::string_view body, uint32_t version) {
  const Scratch scratch;
  const std::string path = absl::StrCat(Folder(), "/manifest");
  const uint32_t checksum = Checksum(BytesOf(body));
  std::string bytes = "QUERNIDX";
  bytes.append(reinterpret_cast<const char*>(&version), sizeof(version));
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  absl::StrAppend(&bytes, body);
  std::ofstream(path, std::ios::binary) << bytes;
  const auto manifest = ReadManifest(Folder());
  if (!manifest.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(manifest.status()));
    return;
  }
  QUERN_FUZZ_REQUIRE(WriteManifest(Folder(), *manifest).ok());
  const auto written = ReadFile(path);
  QUERN_FUZZ_REQUIRE(written.ok());
  QUERN_FUZZ_REQUIRE(version < kNewestManifest || *written == bytes);
}

// With the checksum that its contents should have, where it is JSON at all.
std::string WithChecksum(absl::string_view text) {
  using Json = nlohmann::json;
  Json json = Json::parse(text.begin(), text.end(), nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object()) return std::string(text);
  json.erase("sha256");
  json["sha256"] =
      Sha256Hex(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void RunSnapshotManifest(absl::string_view text) {
  const auto manifest = ParseSnapshotManifest(WithChecksum(text));
  if (!manifest.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(manifest.status()) ||
                       absl::IsFailedPrecondition(manifest.status()));
    QUERN_FUZZ_REQUIRE(IsValidUtf8(manifest.status().message()));
    return;
  }
  for (const SnapshotFile& file : manifest->files) {
    QUERN_FUZZ_REQUIRE(CheckFilePath(file.path).ok());
    QUERN_FUZZ_REQUIRE(file.bytes >= 0);
  }
  QUERN_FUZZ_REQUIRE(manifest->size_bytes() >= 0);
  const std::string formatted = FormatSnapshotManifest(*manifest);
  const auto again = ParseSnapshotManifest(formatted);
  QUERN_FUZZ_REQUIRE(again.ok());
  QUERN_FUZZ_REQUIRE(FormatSnapshotManifest(*again) == formatted);
}

void RunTar(absl::string_view tar) {
  static const RealClock clock;
  const RequestContext context(&clock, "fuzz");
  const Scratch scratch;
  const std::string inside = absl::StrCat(Folder(), "/inside");
  fs::create_directories(inside);
  size_t at = 0;
  const auto manifest = UnpackArchive(
      [&]() -> absl::StatusOr<std::optional<std::string>> {
        if (at >= tar.size()) return std::nullopt;
        std::string piece(tar.substr(at, kTarPieceBytes));
        at += piece.size();
        return piece;
      },
      inside, context);
  // Whatever it says, nothing is written elsewhere.
  for (const auto& entry : fs::directory_iterator(Folder())) {
    QUERN_FUZZ_REQUIRE(entry.path() == inside);
  }
  if (manifest.ok()) {
    QUERN_FUZZ_REQUIRE(VerifyFiles(inside, *manifest, context).ok());
    return;
  }
  QUERN_FUZZ_REQUIRE(absl::IsInvalidArgument(manifest.status()) ||
                     absl::IsFailedPrecondition(manifest.status()) ||
                     absl::IsResourceExhausted(manifest.status()));
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  switch (data[0]) {
    case 's':
      quern::RunSegment(rest);
      break;
    case 'm':
      for (uint32_t version = 1; version <= quern::kNewestManifest; ++version) {
        quern::RunManifest(rest, version);
      }
      break;
    case 'j':
      quern::RunSnapshotManifest(rest);
      break;
    case 't':
      quern::RunTar(rest);
      break;
    default:
      break;
  }
  return 0;
}
