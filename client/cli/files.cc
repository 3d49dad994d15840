#include "client/cli/files.h"

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace quern::cli {

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     int64_t max_bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    return absl::ErrnoToStatus(errno, "cannot be read");
  }
  const int64_t size = file.tellg();
  if (size > max_bytes) {
    return absl::DataLossError(
        absl::StrCat("has ", size, " bytes; at most ", max_bytes));
  }
  std::string bytes(static_cast<size_t>(std::max<int64_t>(size, 0)), '\0');
  file.seekg(0);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) {
    return absl::ErrnoToStatus(errno == 0 ? EIO : errno, "cannot be read");
  }
  return bytes;
}

int64_t MaxMediaBytes(const Client& client) {
  constexpr int64_t kRest = 256 << 10;  // Room for everything else.
  return client.options().max_message_bytes - kRest;
}

absl::StatusOr<std::string> ReadMedia(const Client& client,
                                      const std::filesystem::path& path) {
  auto bytes = ReadFile(path, MaxMediaBytes(client));
  if (bytes.ok()) return bytes;
  return absl::Status(
      bytes.status().code(),
      absl::StrCat(path.string(), " ", bytes.status().message()));
}

absl::Status WriteFile(const std::filesystem::path& path,
                       absl::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  if (file) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("cannot write \"", path.string(), "\""));
}

}  // namespace quern::cli
