#include "engine/base/copy_file.h"

#include <cerrno>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include <fcntl.h>
#include <unistd.h>

#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr mode_t kFileMode = 0644;
constexpr size_t kCopyBytes = 1 << 20;

absl::Status SystemError(absl::string_view action, absl::string_view path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

absl::Status CopyBytes(int from, int to, const std::string& path,
                       const RequestContext& context) {
  std::vector<char> buffer(kCopyBytes);
  while (true) {
    QUERN_RETURN_IF_ERROR(context.Check("copy"));
    const ssize_t bytes = ::read(from, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return SystemError("read", path);
    if (bytes == 0) return absl::OkStatus();
    for (ssize_t done = 0; done < bytes;) {
      const ssize_t written =
          ::write(to, buffer.data() + done, static_cast<size_t>(bytes - done));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return SystemError("write", path);
      done += written;
    }
  }
}

}  // namespace

absl::Status CopyFile(const std::string& from, const std::string& to,
                      const RequestContext& context) {
  const int source = ::open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (source < 0) return SystemError("open", from);
  const absl::Cleanup close_source = [source] { ::close(source); };
  const int target =
      ::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode);
  if (target < 0) return SystemError("create", to);
  const absl::Cleanup close_target = [target] { ::close(target); };
  QUERN_RETURN_IF_ERROR(CopyBytes(source, target, to, context));
  return ::fsync(target) == 0 ? absl::OkStatus() : SystemError("sync", to);
}

absl::Status LinkFile(const std::string& from, const std::string& to,
                      const RequestContext& context) {
  if (::link(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  const bool is_impossible = errno == EXDEV || errno == EPERM ||
                             errno == EOPNOTSUPP || errno == EMLINK;
  if (!is_impossible) return SystemError("link", to);
  return CopyFile(from, to, context);
}

}  // namespace quern
