#include "engine/base/file.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = 1 << 16;
constexpr mode_t kFileMode = 0644;
constexpr mode_t kDirectoryMode = 0755;

// An open file descriptor that closes itself.
class Descriptor {
 public:
  static absl::StatusOr<Descriptor> Open(const std::string& path, int flags);

  Descriptor(Descriptor&& other) noexcept
      : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }

  int get() const { return value_; }
  int Release() { return std::exchange(value_, -1); }

 private:
  explicit Descriptor(int value) : value_(value) {}

  int value_;
};

// `action` is a verb: "cannot open /data/x: Permission denied".
absl::Status SystemError(absl::string_view action, absl::string_view path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

absl::StatusOr<Descriptor> Descriptor::Open(const std::string& path,
                                            int flags) {
  const int value = ::open(path.c_str(), flags | O_CLOEXEC, kFileMode);
  if (value < 0) return SystemError("open", path);
  return Descriptor(value);
}

absl::Status Sync(const std::string& path, int flags) {
  QUERN_ASSIGN_OR_RETURN(Descriptor file, Descriptor::Open(path, flags));
  if (::fsync(file.get()) != 0) return SystemError("sync", path);
  return absl::OkStatus();
}

std::string ParentOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

absl::Status WriteAll(int descriptor, absl::string_view contents,
                      const std::string& path) {
  while (!contents.empty()) {
    const ssize_t written =
        ::write(descriptor, contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", path);
    contents.remove_prefix(written);
  }
  return absl::OkStatus();
}

// Calls `consume` with the file's pieces in order.
template <typename Consume>
absl::Status ReadPieces(const std::string& path, const Consume& consume) {
  QUERN_ASSIGN_OR_RETURN(Descriptor file, Descriptor::Open(path, O_RDONLY));
  std::vector<char> buffer(kReadBytes);
  while (true) {
    const ssize_t bytes = ::read(file.get(), buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return SystemError("read", path);
    if (bytes == 0) return absl::OkStatus();
    consume(absl::string_view(buffer.data(), bytes));
  }
}

absl::Status CheckIsDirectory(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return SystemError("look at", path);
  if (!S_ISDIR(found.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " exists and is not a folder"));
  }
  return absl::OkStatus();
}

// Creates `path` and the parents that lack, from the top.
absl::Status CreateDirectories(const std::string& path) {
  if (::access(path.c_str(), F_OK) == 0) return CheckIsDirectory(path);
  // ENOTDIR: the error of the parent says it better.
  if (errno != ENOENT && errno != ENOTDIR) return SystemError("look at", path);
  const std::string parent = ParentOf(path);
  QUERN_RETURN_IF_ERROR(CreateDirectories(parent));
  if (::mkdir(path.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    return SystemError("create the folder", path);
  }
  QUERN_RETURN_IF_ERROR(CheckIsDirectory(path));
  return SyncDirectory(parent);
}

absl::Status HeldByAnother(const std::string& directory,
                           const std::string& lock_path) {
  std::string holder = "another process";
  absl::StatusOr<std::string> pid = ReadFile(lock_path);
  if (pid.ok() && !pid->empty()) {
    holder = absl::StrCat("process ", absl::StripSuffix(*pid, "\n"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(directory, " is in use by another server (", holder,
                   "): stop that one, or give this one a folder of its own"));
}

}  // namespace

absl::Status EnsureDirectory(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the path is empty");
  QUERN_RETURN_IF_ERROR(CreateDirectories(path));
  if (::faccessat(AT_FDCWD, path.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return SystemError("write to the folder", path);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  std::string contents;
  bool is_too_long = false;
  QUERN_RETURN_IF_ERROR(ReadPieces(path, [&](absl::string_view piece) {
    is_too_long |=
        static_cast<int64_t>(contents.size() + piece.size()) > max_bytes;
    if (!is_too_long) absl::StrAppend(&contents, piece);
  }));
  if (is_too_long) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has more than ", max_bytes, " bytes, which is the limit"));
  }
  return contents;
}

absl::StatusOr<std::string> ResolveBelow(absl::string_view path,
                                         absl::Span<const std::string> roots) {
  constexpr size_t kMaxPathBytes = 4096;
  const std::string shown = Quoted(path);
  if (path.empty() || path.size() > kMaxPathBytes ||
      absl::StrContains(path, absl::string_view("\0", 1))) {
    return absl::InvalidArgumentError(absl::StrCat(
        shown, " is no path: give 1 to ", kMaxPathBytes, " bytes without NUL"));
  }
  absl::ConsumePrefix(&path, "file://");
  bool is_missing = false;
  for (const std::string& root : roots) {
    std::error_code error;
    const fs::path real_root = fs::canonical(root, error);
    if (error) continue;
    // An absolute path replaces the root.
    const fs::path wanted = real_root / std::string(path);
    const fs::path real = fs::canonical(wanted, error);
    const fs::path& judged = error ? wanted.lexically_normal() : real;
    const auto [end, ignored] = std::mismatch(
        real_root.begin(), real_root.end(), judged.begin(), judged.end());
    if (end != real_root.end()) continue;
    if (error) {
      is_missing = true;
      continue;
    }
    // A pipe would be read for ever.
    if (!fs::is_regular_file(real, error) && !fs::is_directory(real, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat(shown, " is neither a file nor a folder"));
    }
    return real.string();
  }
  if (is_missing) {
    return absl::NotFoundError(absl::StrCat(shown, " does not exist"));
  }
  return absl::PermissionDeniedError(
      absl::StrCat(shown,
                   " is below none of the folders that the server may "
                   "read from; its configuration lists them"));
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  absl::Cleanup remove_temporary = [&temporary] {
    ::unlink(temporary.c_str());
  };
  {
    QUERN_ASSIGN_OR_RETURN(
        Descriptor file,
        Descriptor::Open(temporary, O_WRONLY | O_CREAT | O_TRUNC));
    QUERN_RETURN_IF_ERROR(WriteAll(file.get(), contents, temporary));
    if (::fsync(file.get()) != 0) return SystemError("sync", temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return SystemError("replace", path);
  }
  std::move(remove_temporary).Cancel();
  return SyncDirectory(ParentOf(path));
}

absl::Status SyncFile(const std::string& path) { return Sync(path, O_RDONLY); }

absl::Status SyncDirectory(const std::string& path) {
  return Sync(path, O_RDONLY | O_DIRECTORY);
}

absl::Status RemoveFileDurably(const std::string& path) {
  if (::unlink(path.c_str()) != 0) return SystemError("remove", path);
  return SyncDirectory(ParentOf(path));
}

absl::StatusOr<std::string> Sha256HexOfFile(const std::string& path) {
  Sha256 hash;
  QUERN_RETURN_IF_ERROR(ReadPieces(
      path, [&hash](absl::string_view piece) { hash.Update(piece); }));
  return hash.Hex();
}

absl::StatusOr<std::unique_ptr<DirectoryLock>> DirectoryLock::Acquire(
    const std::string& directory) {
  const std::string lock_path = absl::StrCat(directory, "/LOCK");
  QUERN_ASSIGN_OR_RETURN(Descriptor file,
                         Descriptor::Open(lock_path, O_RDWR | O_CREAT));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return HeldByAnother(directory, lock_path);
    return SystemError("lock", lock_path);
  }
  if (::ftruncate(file.get(), 0) != 0) return SystemError("write", lock_path);
  QUERN_RETURN_IF_ERROR(
      WriteAll(file.get(), absl::StrCat(::getpid(), "\n"), lock_path));
  return std::unique_ptr<DirectoryLock>(new DirectoryLock(file.Release()));
}

DirectoryLock::~DirectoryLock() { ::close(descriptor_); }

}  // namespace quern
