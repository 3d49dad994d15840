#include "engine/snapshot/archive.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/snapshot/snapshot_files.h"

namespace quern {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr mode_t kFileMode = 0644;
// A header and padding of an entry, with a pax header before it.
constexpr int64_t kMaxEntryOverheadBytes = 4096;
// Zeros at the end, as various tools write them.
constexpr int64_t kMaxTailBytes = 1 << 20;

struct FreeEntry {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
using Entry = std::unique_ptr<archive_entry, FreeEntry>;

absl::Status Refused(absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the file is not an intact snapshot: ", why));
}

std::string ErrorOf(archive* tar) {
  const char* message = archive_error_string(tar);
  return message == nullptr ? "unknown error" : message;
}

}  // namespace

// Writes entries with libarchive, which hands back the bytes of the tar.
class ArchiveReader::Tar {
 public:
  Tar(std::string directory, std::string manifest_text,
      SnapshotManifest manifest)
      : directory_(std::move(directory)),
        manifest_text_(std::move(manifest_text)),
        manifest_(std::move(manifest)),
        tar_(archive_write_new()) {}

  ~Tar() {
    CloseFile();
    // It would fill up a file that is left in the middle, and gives its buffer
    // back only if it closes the tar, so not after archive_write_fail().
    abandoned_ = true;
    archive_write_free(tar_);
  }

  Tar(const Tar&) = delete;
  Tar& operator=(const Tar&) = delete;

  absl::Status Begin() {
    // Plain ustar, but for files of 8 GiB and more.
    QUERN_RETURN_IF_ERROR(Check(archive_write_set_format_pax_restricted(tar_)));
    QUERN_RETURN_IF_ERROR(Check(archive_write_set_bytes_per_block(
        tar_, static_cast<int>(kMaxArchivePieceBytes))));
    QUERN_RETURN_IF_ERROR(
        Check(archive_write_set_bytes_in_last_block(tar_, 1)));
    QUERN_RETURN_IF_ERROR(
        Check(archive_write_open(tar_, this, nullptr, Take, nullptr)));
    QUERN_RETURN_IF_ERROR(WriteHeader(
        kSnapshotManifestFile, static_cast<int64_t>(manifest_text_.size())));
    return Write(manifest_text_);
  }

  absl::StatusOr<std::optional<std::string>> Next() {
    while (pieces_.empty() && !closed_) QUERN_RETURN_IF_ERROR(Step());
    if (pieces_.empty()) return std::nullopt;
    std::string piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }

 private:
  static la_ssize_t Take(archive* /*tar*/, void* self, const void* bytes,
                         size_t size) {
    Tar& tar = *static_cast<Tar*>(self);
    if (tar.abandoned_) return -1;
    tar.pieces_.emplace_back(static_cast<const char*>(bytes), size);
    return static_cast<la_ssize_t>(size);
  }

  absl::Status Check(int code) {
    if (code == ARCHIVE_OK) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("libarchive: ", ErrorOf(tar_)));
  }

  // Begins a file, or writes some of it, or ends the tar.
  absl::Status Step() {
    if (descriptor_ >= 0) return Continue();
    if (next_file_ < manifest_.files.size()) return OpenFile();
    closed_ = true;
    return Check(archive_write_close(tar_));
  }

  std::string PathOf(const SnapshotFile& file) const {
    return absl::StrCat(directory_, "/", file.path);
  }

  absl::Status Damaged(const SnapshotFile& file) const {
    return absl::DataLossError(
        absl::StrCat("the snapshot is damaged: ", PathOf(file),
                     " does not fit its size and checksum"));
  }

  absl::Status OpenFile() {
    const SnapshotFile& file = manifest_.files[next_file_];
    descriptor_ = ::open(PathOf(file).c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) {
      return absl::ErrnoToStatus(errno,
                                 absl::StrCat("cannot open ", PathOf(file)));
    }
    left_ = file.bytes;
    hash_.emplace();
    return WriteHeader(file.path, file.bytes);
  }

  absl::Status Continue() {
    const SnapshotFile& file = manifest_.files[next_file_];
    std::vector<char> buffer(kReadBytes);
    ssize_t bytes = 0;
    do {
      bytes = ::read(descriptor_, buffer.data(), buffer.size());
    } while (bytes < 0 && errno == EINTR);
    if (bytes < 0) {
      return absl::ErrnoToStatus(errno,
                                 absl::StrCat("cannot read ", PathOf(file)));
    }
    const absl::string_view read(buffer.data(), static_cast<size_t>(bytes));
    left_ -= bytes;
    hash_->Update(read);
    if (left_ < 0 || (bytes == 0 && left_ > 0)) return Damaged(file);
    if (bytes > 0) return Write(read);
    if (hash_->Hex() != file.sha256) return Damaged(file);
    CloseFile();
    ++next_file_;
    return absl::OkStatus();
  }

  void CloseFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

  absl::Status WriteHeader(absl::string_view path, int64_t bytes) {
    const Entry entry(archive_entry_new());
    archive_entry_set_pathname(entry.get(), std::string(path).c_str());
    archive_entry_set_size(entry.get(), bytes);
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), kFileMode);
    archive_entry_set_mtime(entry.get(),
                            absl::ToUnixSeconds(manifest_.create_time), 0);
    return Check(archive_write_header(tar_, entry.get()));
  }

  absl::Status Write(absl::string_view bytes) {
    const la_ssize_t written =
        archive_write_data(tar_, bytes.data(), bytes.size());
    if (written == static_cast<la_ssize_t>(bytes.size())) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrCat("libarchive: ", ErrorOf(tar_)));
  }

  const std::string directory_;
  const std::string manifest_text_;
  const SnapshotManifest manifest_;
  archive* const tar_;
  bool closed_ = false;
  bool abandoned_ = false;          // Nobody wants its bytes.
  std::deque<std::string> pieces_;  // Not yet taken.

  size_t next_file_ = 0;
  // The file at `next_file_`, while it is read.
  int descriptor_ = -1;
  int64_t left_ = 0;
  std::optional<Sha256> hash_;
};

ArchiveReader::ArchiveReader(std::unique_ptr<Tar> tar) : tar_(std::move(tar)) {}

ArchiveReader::~ArchiveReader() = default;

absl::StatusOr<std::unique_ptr<ArchiveReader>> ArchiveReader::Open(
    const std::string& directory) {
  QUERN_ASSIGN_OR_RETURN(SnapshotManifest manifest,
                         ReadSnapshotManifest(directory));
  QUERN_ASSIGN_OR_RETURN(
      std::string text,
      ReadFile(absl::StrCat(directory, "/", kSnapshotManifestFile),
               kMaxSnapshotManifestBytes));
  auto tar =
      std::make_unique<Tar>(directory, std::move(text), std::move(manifest));
  QUERN_RETURN_IF_ERROR(tar->Begin());
  return std::unique_ptr<ArchiveReader>(new ArchiveReader(std::move(tar)));
}

absl::StatusOr<std::optional<std::string>> ArchiveReader::Next() {
  return tar_->Next();
}

namespace {

// One tar on its way to the disk.
class Unpacker {
 public:
  Unpacker(const ArchiveSource& source, std::string directory,
           const RequestContext& context)
      : source_(source),
        directory_(std::move(directory)),
        context_(context),
        tar_(archive_read_new()) {}

  ~Unpacker() { archive_read_free(tar_); }

  Unpacker(const Unpacker&) = delete;
  Unpacker& operator=(const Unpacker&) = delete;

  absl::StatusOr<SnapshotManifest> Run() {
    QUERN_RETURN_IF_ERROR(Check(archive_read_support_format_tar(tar_)));
    QUERN_RETURN_IF_ERROR(
        Check(archive_read_open(tar_, this, nullptr, Pull, nullptr)));
    QUERN_RETURN_IF_ERROR(ReadFirstEntry());
    while (true) {
      QUERN_ASSIGN_OR_RETURN(const std::optional<Found> found, NextEntry());
      if (!found.has_value()) break;
      QUERN_RETURN_IF_ERROR(ReadEntry(*found));
    }
    for (const SnapshotFile& file : manifest_.files) {
      if (!seen_.contains(file.path)) {
        return Refused(absl::StrCat(file.path, " is missing"));
      }
    }
    QUERN_RETURN_IF_ERROR(Drain());
    return std::move(manifest_);
  }

 private:
  struct Found {
    std::string path;
    int64_t bytes = 0;
  };

  static la_ssize_t Pull(archive* tar, void* self, const void** bytes) {
    return static_cast<Unpacker*>(self)->PullPiece(tar, bytes);
  }

  la_ssize_t PullPiece(archive* tar, const void** bytes) {
    absl::StatusOr<std::optional<std::string>> piece = NextPiece();
    if (!piece.ok()) {
      failure_ = piece.status();
      archive_set_error(tar, EIO, "the source failed");
      return -1;
    }
    piece_ = std::move(*piece).value_or("");
    *bytes = piece_.data();
    return static_cast<la_ssize_t>(piece_.size());
  }

  // Never an empty one: libarchive takes that for the end.
  absl::StatusOr<std::optional<std::string>> NextPiece() {
    while (true) {
      QUERN_RETURN_IF_ERROR(context_.Check("import"));
      QUERN_ASSIGN_OR_RETURN(std::optional<std::string> piece, source_());
      if (!piece.has_value()) return std::nullopt;
      received_ += static_cast<int64_t>(piece->size());
      if (received_ > max_bytes_) {
        return Refused(absl::StrCat("it has more than the ", max_bytes_,
                                    " bytes that its contents can take"));
      }
      if (!piece->empty()) return piece;
    }
  }

  // What libarchive did not read of the source.
  absl::Status Drain() {
    while (true) {
      QUERN_ASSIGN_OR_RETURN(const std::optional<std::string> piece,
                             NextPiece());
      if (!piece.has_value()) return absl::OkStatus();
    }
  }

  // An error of libarchive, or what made it fail.
  absl::Status Check(int code) {
    if (code == ARCHIVE_OK) return absl::OkStatus();
    if (!failure_.ok()) return failure_;
    return Refused(ErrorOf(tar_));
  }

  absl::StatusOr<std::optional<Found>> NextEntry() {
    archive_entry* entry = nullptr;
    const int code = archive_read_next_header(tar_, &entry);
    if (code == ARCHIVE_EOF) return std::nullopt;
    QUERN_RETURN_IF_ERROR(Check(code));
    const char* path = archive_entry_pathname(entry);
    if (path == nullptr) return Refused("an entry has no readable name");
    const bool is_plain = archive_entry_filetype(entry) == AE_IFREG &&
                          archive_entry_hardlink(entry) == nullptr &&
                          archive_entry_symlink(entry) == nullptr &&
                          archive_entry_sparse_count(entry) == 0 &&
                          archive_entry_size_is_set(entry) != 0;
    if (!is_plain) {
      return Refused(absl::StrCat("entry ", Quoted(path),
                                  " is a link, a folder, a device or sparse, "
                                  "not a plain file"));
    }
    return Found{.path = path, .bytes = archive_entry_size(entry)};
  }

  absl::Status ReadFirstEntry() {
    QUERN_ASSIGN_OR_RETURN(const std::optional<Found> first, NextEntry());
    if (!first.has_value() || first->path != kSnapshotManifestFile) {
      return Refused(
          absl::StrCat("its first entry is not ", kSnapshotManifestFile));
    }
    if (first->bytes > kMaxSnapshotManifestBytes) {
      return Refused(absl::StrCat(kSnapshotManifestFile, " has ", first->bytes,
                                  " bytes; the limit is ",
                                  kMaxSnapshotManifestBytes));
    }
    std::string text;
    QUERN_RETURN_IF_ERROR(ReadData([&text](absl::string_view bytes) {
      absl::StrAppend(&text, bytes);
      return absl::OkStatus();
    }));
    absl::StatusOr<SnapshotManifest> manifest = ParseSnapshotManifest(text);
    if (absl::IsDataLoss(manifest.status())) {
      return Refused(absl::StrCat(
          kSnapshotManifestFile, " is damaged: ", manifest.status().message()));
    }
    QUERN_RETURN_IF_ERROR(manifest.status());
    manifest_ = *std::move(manifest);
    for (const SnapshotFile& file : manifest_.files) {
      wanted_[file.path] = &file;
    }
    QUERN_RETURN_IF_ERROR(CheckRoom());
    max_bytes_ =
        received_ + manifest_.size_bytes() + kMaxTailBytes +
        kMaxEntryOverheadBytes * static_cast<int64_t>(manifest_.files.size());
    return WriteNewFile(std::string(kSnapshotManifestFile),
                        [&text](int descriptor, const std::string& path) {
                          return WriteAll(descriptor, text, path);
                        });
  }

  absl::Status CheckRoom() const {
    QUERN_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(directory_));
    if (manifest_.size_bytes() <= free) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("the snapshot takes ", manifest_.size_bytes(),
                     " bytes, and the disk of ", directory_, " has ", free,
                     ": make room and try again"));
  }

  absl::Status ReadEntry(const Found& found) {
    const auto wanted = wanted_.find(found.path);
    if (wanted == wanted_.end()) {
      return Refused(absl::StrCat("entry ", Quoted(found.path),
                                  " is not one of its files"));
    }
    const SnapshotFile& file = *wanted->second;
    if (!seen_.insert(file.path).second) {
      return Refused(absl::StrCat(file.path, " comes twice"));
    }
    if (found.bytes != file.bytes) {
      return Refused(absl::StrCat(file.path, " has ", found.bytes,
                                  " bytes, not ", file.bytes));
    }
    const size_t slash = file.path.find('/');
    if (slash != std::string::npos) {
      QUERN_RETURN_IF_ERROR(EnsureDirectory(
          absl::StrCat(directory_, "/", file.path.substr(0, slash))));
    }
    Sha256 hash;
    int64_t bytes = 0;
    QUERN_RETURN_IF_ERROR(
        WriteNewFile(file.path, [&](int descriptor, const std::string& path) {
          return ReadData([&](absl::string_view piece) {
            hash.Update(piece);
            bytes += static_cast<int64_t>(piece.size());
            return WriteAll(descriptor, piece, path);
          });
        }));
    if (bytes != file.bytes || hash.Hex() != file.sha256) {
      return Refused(absl::StrCat(file.path, " does not fit its checksum"));
    }
    return absl::OkStatus();
  }

  // Calls `take` with the entry's bytes in order.
  template <typename Take>
  absl::Status ReadData(const Take& take) {
    std::vector<char> buffer(kReadBytes);
    while (true) {
      const la_ssize_t bytes =
          archive_read_data(tar_, buffer.data(), buffer.size());
      if (bytes == 0) return absl::OkStatus();
      if (bytes < 0) return Check(static_cast<int>(bytes));
      QUERN_RETURN_IF_ERROR(
          take(absl::string_view(buffer.data(), static_cast<size_t>(bytes))));
    }
  }

  static absl::Status WriteAll(int descriptor, absl::string_view bytes,
                               const std::string& path) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
      }
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  template <typename Fill>
  absl::Status WriteNewFile(const std::string& name, const Fill& fill) {
    const std::string path = absl::StrCat(directory_, "/", name);
    const int descriptor = ::open(
        path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode);
    if (descriptor < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
    }
    const absl::Cleanup close = [descriptor] { ::close(descriptor); };
    QUERN_RETURN_IF_ERROR(fill(descriptor, path));
    return ::fsync(descriptor) == 0
               ? absl::OkStatus()
               : absl::ErrnoToStatus(errno, absl::StrCat("cannot sync ", path));
  }

  const ArchiveSource& source_;
  const std::string directory_;
  const RequestContext& context_;
  archive* const tar_;

  std::string piece_;     // What libarchive reads from.
  absl::Status failure_;  // Of the source.
  int64_t received_ = 0;
  int64_t max_bytes_ = kMaxSnapshotManifestBytes + kMaxTailBytes;

  SnapshotManifest manifest_;
  absl::flat_hash_map<std::string, const SnapshotFile*> wanted_;
  absl::flat_hash_set<std::string> seen_;
};

}  // namespace

absl::StatusOr<SnapshotManifest> UnpackArchive(const ArchiveSource& source,
                                               const std::string& directory,
                                               const RequestContext& context) {
  return Unpacker(source, directory, context).Run();
}

}  // namespace quern
