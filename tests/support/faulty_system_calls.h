#pragma once

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>

#include <fcntl.h>
#include <sys/types.h>

// System calls that fail when a test says so, for code that is linked into it
// statically. Include it in one file of a binary that is linked with --wrap of
// each of the wrappers below, as in tests/query/CMakeLists.txt.

namespace quern {

class FaultySystemCalls {
 public:
  enum class Site {
    kOpen,          // For writing.
    kWrite,         // Nothing is written.
    kShortWrite,    // Half is written, and the next call fails.
    kPartialWrite,  // Half is written, which is no error.
    kFsync,
    kRename,
    kRenameFolder,  // renameat2()
    kLink,
    kUnlink,
    kMkdir
  };

  // The nth call (from 1) fails, once, with `error`.
  static void FailCall(Site site, int64_t nth, int error) {
    site_ = site;
    error_ = error;
    fails_next_write_ = false;
    calls_left_ = nth;
  }
  static void Heal() { FailCall(Site::kOpen, 0, 0); }
  // The call of FailCall() has not come yet.
  static bool is_waiting() { return calls_left_ > 0; }

  // Of the wrappers: whether this call fails; sets errno.
  static bool Fails(Site site) {
    if (site == Site::kWrite && fails_next_write_.exchange(false)) {
      errno = error_;
      return true;
    }
    if (site != site_ || calls_left_ <= 0 || --calls_left_ > 0) return false;
    if (site == Site::kShortWrite) fails_next_write_ = true;
    errno = error_;
    return true;
  }

 private:
  static inline std::atomic<Site> site_ = Site::kOpen;
  static inline std::atomic<int> error_ = 0;
  static inline std::atomic<int64_t> calls_left_ = 0;
  static inline std::atomic<bool> fails_next_write_ = false;
};

}  // namespace quern

// The linker's names.
// NOLINTBEGIN(bugprone-reserved-identifier, cert-dcl37-c, cert-dcl51-cpp)
// NOLINTBEGIN(readability-identifier-naming)
extern "C" {

int __real_open(const char* path, int flags, ...);
ssize_t __real_write(int file, const void* data, size_t bytes);
int __real_fsync(int file);
int __real_rename(const char* from, const char* to);
int __real_renameat2(int from_folder, const char* from, int to_folder,
                     const char* to, unsigned flags);
int __real_link(const char* from, const char* to);
int __real_unlink(const char* path);
int __real_mkdir(const char* path, mode_t mode);

int __wrap_open(const char* path, int flags, ...);
ssize_t __wrap_write(int file, const void* data, size_t bytes);
int __wrap_fsync(int file);
int __wrap_rename(const char* from, const char* to);
int __wrap_renameat2(int from_folder, const char* from, int to_folder,
                     const char* to, unsigned flags);
int __wrap_link(const char* from, const char* to);
int __wrap_unlink(const char* path);
int __wrap_mkdir(const char* path, mode_t mode);

int __wrap_open(const char* path, int flags, ...) {
  using quern::FaultySystemCalls;
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  if (writes && FaultySystemCalls::Fails(FaultySystemCalls::Site::kOpen)) {
    return -1;
  }
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return __real_open(path, flags, mode);
}

ssize_t __wrap_write(int file, const void* data, size_t bytes) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kWrite)) return -1;
  const bool is_cut =
      bytes > 1 &&
      (FaultySystemCalls::Fails(FaultySystemCalls::Site::kShortWrite) ||
       FaultySystemCalls::Fails(FaultySystemCalls::Site::kPartialWrite));
  return __real_write(file, data, is_cut ? bytes / 2 : bytes);
}

int __wrap_fsync(int file) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kFsync)) return -1;
  return __real_fsync(file);
}

int __wrap_rename(const char* from, const char* to) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kRename)) return -1;
  return __real_rename(from, to);
}

int __wrap_renameat2(int from_folder, const char* from, int to_folder,
                     const char* to, unsigned flags) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kRenameFolder)) {
    return -1;
  }
  return __real_renameat2(from_folder, from, to_folder, to, flags);
}

int __wrap_link(const char* from, const char* to) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kLink)) return -1;
  return __real_link(from, to);
}

int __wrap_unlink(const char* path) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kUnlink)) return -1;
  return __real_unlink(path);
}

int __wrap_mkdir(const char* path, mode_t mode) {
  using quern::FaultySystemCalls;
  if (FaultySystemCalls::Fails(FaultySystemCalls::Site::kMkdir)) return -1;
  return __real_mkdir(path, mode);
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
// NOLINTEND(bugprone-reserved-identifier, cert-dcl37-c, cert-dcl51-cpp)
