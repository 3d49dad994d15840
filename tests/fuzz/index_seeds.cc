// Writes the seeds of tests/fuzz/corpus/index_fuzz: small files of every kind,
// as the product itself makes them.
//
//   index_seeds FOLDER

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/index/index_files.h"
#include "engine/index/segment_builder.h"
#include "engine/snapshot/archive.h"
#include "engine/snapshot/manifest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 4;
constexpr size_t kManifestHeadBytes = 16;

std::string SegmentOf(IndexKind kind, VectorStorage storage, int rows) {
  auto delta = std::make_shared<Delta>(
      kDimension, std::make_shared<const BinaryCoder>(kDimension), 0);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int row = 0; row < rows; ++row) {
    std::vector<float> vector(kDimension);
    for (float& value : vector) value = normal(random);
    delta->Append(absl::StrCat(row), row, vector);
  }
  const IndexPart part{.delta = delta, .rows = rows};
  const auto segment = ValueOrDie(
      BuildSegment({.dimension = kDimension,
                    .metric = Metric::kDotProduct,
                    .storage = storage,
                    .kind = kind,
                    // Always reached: the kind stays as it is.
                    .target_recall = 0.01F,
                    .min_ann_rows = 1},
                   {&part, 1}, {}, nullptr, [] { return absl::OkStatus(); }));
  return {reinterpret_cast<const char*>(segment->image().data()),
          segment->image().size()};
}

std::string ManifestBody(const std::string& folder) {
  const IndexManifest manifest{
      .generation = 7,
      .dimension = 4,
      .shards = 2,
      .next_row = 100,
      .next_file = 4,
      .sequence = 9,
      .fields = {.id = 1, .size = 20, .checksum = 5},
      .incomplete = {0, 1},
      .segments = {{.shard = 1,
                    .file = {.id = 3, .size = 600, .checksum = 77},
                    .dead = {5}}}};
  const absl::Status written = WriteManifest(folder, manifest);
  if (!written.ok()) std::cerr << written << "\n";
  return ValueOrDie(ReadFile(folder + "/manifest")).substr(kManifestHeadBytes);
}

std::string SnapshotText(const std::string& contents) {
  SnapshotManifest manifest{.collection = "photos",
                            .name = "monday",
                            .item_count = 3,
                            .create_time = absl::FromUnixSeconds(1'800'000'000),
                            .model_fingerprint = "f00d"};
  for (const char* path :
       {"collection.json", "index/manifest", "items/1.sst"}) {
    manifest.files.push_back({.path = path,
                              .bytes = static_cast<int64_t>(contents.size()),
                              .sha256 = Sha256Hex(contents)});
  }
  return FormatSnapshotManifest(manifest);
}

std::string TarOf(const std::string& folder) {
  const std::string contents = "contents";
  for (const char* path :
       {"collection.json", "index/manifest", "items/1.sst"}) {
    const std::filesystem::path file = folder + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << contents;
  }
  std::ofstream(folder + "/snapshot.json") << SnapshotText(contents);
  const auto reader = ValueOrDie(ArchiveReader::Open(folder));
  std::string tar;
  while (true) {
    const std::optional<std::string> piece = ValueOrDie(reader->Next());
    if (!piece.has_value()) return tar;
    tar += *piece;
  }
}

void WriteSeeds(const std::string& to) {
  const auto write = [&to](const std::string& name, char first,
                           const std::string& bytes) {
    std::ofstream(to + "/seed-" + name, std::ios::binary) << first << bytes;
  };
  write("s-exact", 's', SegmentOf(IndexKind::kExact, VectorStorage::kFp32, 3));
  write("s-fp16", 's', SegmentOf(IndexKind::kExact, VectorStorage::kFp16, 3));
  // Of so many rows that a search rather walks the graph than compares all.
  write("s-hnsw", 's', SegmentOf(IndexKind::kHnsw, VectorStorage::kInt8, 100));
  write("s-ivf", 's', SegmentOf(IndexKind::kIvfPq, VectorStorage::kFp16, 300));
  const TemporaryDirectory folder;
  write("m", 'm', ManifestBody(folder.path()));
  write("j", 'j', SnapshotText("contents"));
  const TemporaryDirectory snapshot;
  write("t", 't', TarOf(snapshot.path()));
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: index_seeds FOLDER\n";
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  quern::WriteSeeds(argv[1]);
  return 0;
}
