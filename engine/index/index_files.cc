#include "engine/index/index_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/base/copy_file.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"
#include "engine/base/work_crew.h"
#include "engine/index/plain_bytes.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'Q', 'U', 'E', 'R', 'N', 'I', 'D', 'X'};
// Before version 2 there was no file of queries.
constexpr uint32_t kVersion = 2;
constexpr uint32_t kOldestVersion = 1;
constexpr absl::string_view kManifestName = "manifest";
constexpr size_t kChecksumTurn = size_t{1} << 30;  // zlib takes 32 bits.
// A file is read in these; fewer are not worth another thread.
constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr size_t kPiecesPerThread = 16;
constexpr unsigned kMaxThreads = 8;
constexpr uint32_t kMaxShards = 64;

struct ManifestHead {
  char magic[8] = {};
  uint32_t version = 0;
  uint32_t checksum = 0;  // Of what follows.
};

std::string ManifestPath(const std::string& directory) {
  return absl::StrCat(directory, "/", kManifestName);
}

void AppendFile(const IndexFile& file, std::string* bytes) {
  AppendValue(file.id, bytes);
  AppendValue(file.size, bytes);
  AppendValue(file.checksum, bytes);
}

bool TakeFile(PlainReader& reader, IndexFile& file) {
  return reader.Read(&file.id) && reader.Read(&file.size) &&
         reader.Read(&file.checksum);
}

absl::Status Damaged(absl::string_view path, absl::string_view why) {
  return absl::DataLossError(absl::StrCat(path, " is damaged: ", why));
}

std::set<std::string> NamedFiles(const std::string& directory,
                                 const IndexManifest& manifest) {
  std::set<std::string> named = {ManifestPath(directory)};
  if (manifest.fields.id != 0) {
    named.insert(FieldsPath(directory, manifest.fields.id));
  }
  if (manifest.queries.id != 0) {
    named.insert(QueriesPath(directory, manifest.queries.id));
  }
  for (const IndexManifest::Segment& segment : manifest.segments) {
    named.insert(SegmentPath(directory, segment.file.id));
  }
  return named;
}

// Bytes `begin` to `end` - 1 of a file.
absl::Status ReadPiece(const std::string& path, int file, size_t begin,
                       size_t end, uint8_t* out) {
  while (begin < end) {
    const ssize_t got =
        pread(file, out, end - begin, static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    }
    if (got == 0) return Damaged(path, "it ended early");
    begin += static_cast<size_t>(got);
    out += got;
  }
  return absl::OkStatus();
}

// Fills `buffer` from its file, and returns the checksum of all. Of a large one
// pieces are read and summed side by side, each while it is in the cache.
absl::StatusOr<uint32_t> ReadPieces(const std::string& path, int file,
                                    HugeBuffer& buffer) {
  const size_t pieces = (buffer.size() + kPieceBytes - 1) / kPieceBytes;
  std::vector<uint32_t> checksums(pieces);
  const size_t threads = std::min<size_t>(
      pieces / kPiecesPerThread,
      std::min(kMaxThreads, std::thread::hardware_concurrency()));
  WorkCrew crew(
      {.name = "read", .threads = std::max(0, static_cast<int>(threads) - 1)});
  QUERN_RETURN_IF_ERROR(crew.Run(
      static_cast<int64_t>(pieces),
      [&](int64_t piece, int /*worker*/) -> absl::Status {
        const size_t begin = static_cast<size_t>(piece) * kPieceBytes;
        const size_t end = std::min(begin + kPieceBytes, buffer.size());
        uint8_t* const out = buffer.data() + begin;
        QUERN_RETURN_IF_ERROR(ReadPiece(path, file, begin, end, out));
        checksums[piece] = Checksum({out, end - begin});
        return absl::OkStatus();
      }));
  uLong checksum = crc32(0, nullptr, 0);
  for (size_t i = 0; i < pieces; ++i) {
    const size_t begin = i * kPieceBytes;
    const size_t bytes = std::min(kPieceBytes, buffer.size() - begin);
    checksum =
        crc32_combine(checksum, checksums[i], static_cast<z_off_t>(bytes));
  }
  return static_cast<uint32_t>(checksum);
}

}  // namespace

std::string SegmentPath(const std::string& directory, uint64_t file_id) {
  return absl::StrCat(directory, "/segment-", file_id);
}

std::string FieldsPath(const std::string& directory, uint64_t file_id) {
  return absl::StrCat(directory, "/fields-", file_id);
}

std::string QueriesPath(const std::string& directory, uint64_t file_id) {
  return absl::StrCat(directory, "/queries-", file_id);
}

uint32_t Checksum(absl::Span<const uint8_t> bytes) {
  uLong checksum = crc32(0, nullptr, 0);
  while (!bytes.empty()) {
    const size_t turn = std::min(bytes.size(), kChecksumTurn);
    checksum = crc32(checksum, bytes.data(), static_cast<uInt>(turn));
    bytes.remove_prefix(turn);
  }
  return static_cast<uint32_t>(checksum);
}

absl::StatusOr<IndexFile> WriteIndexFile(const std::string& path, uint64_t id,
                                         absl::Span<const uint8_t> bytes) {
  QUERN_RETURN_IF_ERROR(WriteFileAtomically(
      path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  return IndexFile{id, bytes.size(), Checksum(bytes)};
}

absl::StatusOr<HugeBuffer> ReadIndexFile(const std::string& path,
                                         const IndexFile& expected) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  const absl::Cleanup closer = [file] { close(file); };
  struct stat about {};
  if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode) ||
      static_cast<uint64_t>(about.st_size) != expected.size) {
    return Damaged(path, absl::StrCat("it has ", about.st_size,
                                      " bytes instead of ", expected.size));
  }
  QUERN_ASSIGN_OR_RETURN(HugeBuffer buffer, HugeBuffer::Create(expected.size));
  QUERN_ASSIGN_OR_RETURN(const uint32_t checksum,
                         ReadPieces(path, file, buffer));
  if (checksum != expected.checksum) {
    return Damaged(path, "its checksum is wrong");
  }
  return buffer;
}

absl::Status WriteManifest(const std::string& directory,
                           const IndexManifest& manifest) {
  std::string body;
  AppendValue(manifest.generation, &body);
  AppendValue(manifest.dimension, &body);
  AppendValue(manifest.metric, &body);
  AppendValue(manifest.shards, &body);
  AppendValue(manifest.next_row, &body);
  AppendValue(manifest.next_file, &body);
  AppendValue(manifest.sequence, &body);
  AppendFile(manifest.fields, &body);
  AppendFile(manifest.queries, &body);
  AppendValues(manifest.incomplete.data(), manifest.incomplete.size(), &body);
  AppendValue(static_cast<uint32_t>(manifest.segments.size()), &body);
  for (const IndexManifest::Segment& segment : manifest.segments) {
    AppendValue(segment.shard, &body);
    AppendFile(segment.file, &body);
    AppendValue(static_cast<uint64_t>(segment.dead.size()), &body);
    AppendValues(segment.dead.data(), segment.dead.size(), &body);
  }
  ManifestHead head{.version = kVersion, .checksum = Checksum(BytesOf(body))};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  std::string bytes;
  AppendValue(head, &bytes);
  return WriteFileAtomically(ManifestPath(directory), bytes + body);
}

absl::StatusOr<IndexManifest> ReadManifest(const std::string& directory) {
  const std::string path = ManifestPath(directory);
  QUERN_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  PlainReader reader(BytesOf(bytes));
  ManifestHead head;
  if (!reader.Read(&head) ||
      std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0) {
    return Damaged(path, "it does not begin like a manifest");
  }
  if (head.version < kOldestVersion || head.version > kVersion) {
    return absl::DataLossError(absl::StrCat(path, " has format ", head.version,
                                            "; this version reads ",
                                            kOldestVersion, " to ", kVersion));
  }
  if (Checksum(BytesOf(bytes).subspan(sizeof(head))) != head.checksum) {
    return Damaged(path, "its checksum is wrong");
  }
  IndexManifest manifest;
  uint32_t segments = 0;
  bool good =
      reader.Read(&manifest.generation) && reader.Read(&manifest.dimension) &&
      reader.Read(&manifest.metric) && reader.Read(&manifest.shards) &&
      reader.Read(&manifest.next_row) && reader.Read(&manifest.next_file) &&
      reader.Read(&manifest.sequence) && TakeFile(reader, manifest.fields) &&
      (head.version < 2 || TakeFile(reader, manifest.queries)) &&
      manifest.shards >= 1 && manifest.shards <= kMaxShards &&
      reader.Read(manifest.shards, &manifest.incomplete) &&
      reader.Read(&segments);
  for (uint32_t i = 0; good && i < segments; ++i) {
    IndexManifest::Segment segment;
    uint64_t words = 0;
    good = reader.Read(&segment.shard) && segment.shard < manifest.shards &&
           TakeFile(reader, segment.file) && reader.Read(&words) &&
           reader.Read(words, &segment.dead);
    manifest.segments.push_back(std::move(segment));
  }
  if (!good || !reader.at_end()) return Damaged(path, "it cannot be read");
  return manifest;
}

void RemoveOtherFiles(const std::string& directory,
                      const IndexManifest& manifest) {
  const std::set<std::string> named = NamedFiles(directory, manifest);
  std::error_code ignored;  // Tried again after the next save.
  std::vector<fs::path> others;
  for (fs::directory_iterator it(directory, ignored), end;
       !ignored && it != end; it.increment(ignored)) {
    if (!named.contains(it->path().string())) others.push_back(it->path());
  }
  for (const fs::path& path : others) fs::remove(path, ignored);
}

absl::Status LinkIndexFiles(const std::string& from, const std::string& to,
                            const RequestContext& context) {
  QUERN_RETURN_IF_ERROR(EnsureDirectory(to));
  const absl::StatusOr<IndexManifest> manifest = ReadManifest(from);
  // Without one, or with a damaged one, the index is made anew of the items.
  if (!manifest.ok()) return absl::OkStatus();
  for (const std::string& path : NamedFiles(from, *manifest)) {
    const std::string name = fs::path(path).filename().string();
    QUERN_RETURN_IF_ERROR(LinkFile(path, absl::StrCat(to, "/", name), context));
  }
  return absl::OkStatus();
}

}  // namespace quern
