#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "client/cpp/client.h"

namespace quern::cli {

// The whole file. DATA_LOSS when it is longer than `max_bytes`, with the limit.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     int64_t max_bytes);

// Bytes of a picture or a video that fit into one message to the server.
int64_t MaxMediaBytes(const Client& client);

// A picture or a video to be sent whole. The error names the file.
absl::StatusOr<std::string> ReadMedia(const Client& client,
                                      const std::filesystem::path& path);

// Replaces the file. PERMISSION_DENIED names it.
absl::Status WriteFile(const std::filesystem::path& path,
                       absl::string_view content);

}  // namespace quern::cli
