#include "engine/snapshot/snapshot_files.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/copy_file.h"
#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// Read between two looks at the context.
constexpr size_t kHashedBytes = 1 << 20;

absl::Status SystemError(absl::string_view action, absl::string_view path,
                         int error = errno) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", action, " ", path));
}

absl::Status NoPlainFile(const std::string& path) {
  return absl::DataLossError(
      absl::StrCat(path, " is not a plain file: it belongs to no snapshot"));
}

bool NamesOthers(const std::string& file_name) {
  return absl::EndsWith(file_name, ".json") ||
         absl::EqualsIgnoreCase(file_name, "manifest");
}

}  // namespace

absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path) {
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0) return SystemError("look at", path);
  if (!S_ISREG(found.st_mode)) return NoPlainFile(path);
  return FileIdentity{
      .device = found.st_dev, .inode = found.st_ino, .bytes = found.st_size};
}

absl::StatusOr<std::vector<std::string>> ListFiles(
    const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  while (!error && it != fs::recursive_directory_iterator()) {
    const fs::file_status status = it->symlink_status(error);
    if (error) break;
    if (fs::is_regular_file(status)) {
      paths.push_back(it->path().lexically_relative(directory).string());
    } else if (!fs::is_directory(status)) {
      return NoPlainFile(it->path().string());
    }
    it.increment(error);
  }
  if (error) return SystemError("list", directory, error.value());
  std::sort(paths.begin(), paths.end());
  return paths;
}

absl::StatusOr<std::vector<std::string>> ListFolders(
    const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(directory, error);
  while (!error && it != fs::directory_iterator()) {
    std::error_code gone;
    if (fs::is_directory(it->symlink_status(gone))) {
      names.push_back(it->path().filename().string());
    }
    it.increment(error);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return SystemError("list", directory, error.value());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> HashFile(const std::string& path,
                                     const RequestContext& context) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (file < 0) return SystemError("open", path);
  const absl::Cleanup close_file = [file] { ::close(file); };
  Sha256 hash;
  std::vector<char> buffer(kHashedBytes);
  while (true) {
    QUERN_RETURN_IF_ERROR(context.Check("checksum"));
    const ssize_t bytes = ::read(file, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return SystemError("read", path);
    if (bytes == 0) return hash.Hex();
    hash.Update({buffer.data(), static_cast<size_t>(bytes)});
  }
}

absl::Status CopyFolder(const std::string& from, const std::string& to,
                        Linked linked, const RequestContext& context) {
  QUERN_ASSIGN_OR_RETURN(std::vector<std::string> names, ListFiles(from));
  QUERN_RETURN_IF_ERROR(EnsureDirectory(to));
  std::stable_partition(names.begin(), names.end(), NamesOthers);
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".tmp")) continue;
    QUERN_RETURN_IF_ERROR(context.Check("copy"));
    const std::string source = absl::StrCat(from, "/", name);
    const std::string target = absl::StrCat(to, "/", name);
    const bool may_link =
        linked == Linked::kAll || absl::EndsWith(name, ".sst");
    QUERN_RETURN_IF_ERROR(may_link ? LinkFile(source, target, context)
                                   : CopyFile(source, target, context));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FreeBytes(const std::string& directory) {
  struct statvfs found {};
  if (::statvfs(directory.c_str(), &found) != 0) {
    return SystemError("look at", directory);
  }
  return static_cast<int64_t>(found.f_bavail) *
         static_cast<int64_t>(found.f_frsize);
}

absl::Status SyncTree(const std::string& directory) {
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                         ListFiles(directory));
  for (const std::string& file : files) {
    QUERN_RETURN_IF_ERROR(SyncFile(absl::StrCat(directory, "/", file)));
  }
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> folders,
                         ListFolders(directory));
  for (const std::string& folder : folders) {
    QUERN_RETURN_IF_ERROR(SyncDirectory(absl::StrCat(directory, "/", folder)));
  }
  return SyncDirectory(directory);
}

absl::Status RenameFolder(const std::string& from, const std::string& to) {
  int renamed = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(),
                            RENAME_NOREPLACE);
  // Some file systems cannot promise it; rename() still keeps a folder that
  // holds anything.
  if (renamed != 0 && errno == EINVAL) {
    renamed = ::rename(from.c_str(), to.c_str());
    if (renamed != 0 && errno == ENOTEMPTY) errno = EEXIST;
  }
  if (renamed != 0) return SystemError("create", to);
  return SyncDirectory(fs::path(to).parent_path().string());
}

}  // namespace quern
