#include "server/config.h"

#include <cstdint>
#include <cstdlib>
#include <limits>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"
#include "server/config_yaml.h"

namespace quern {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
constexpr int64_t kKiB = 1 << 10;
constexpr int64_t kMiB = 1 << 20;

// Both ends are allowed.
struct IntegerRange {
  absl::string_view path;
  int64_t min;
  int64_t max;
};
constexpr IntegerRange kIntegerRanges[] = {
    {"server.max_message_bytes", 64 * kKiB, 1024 * kMiB},
    {"server.threads", 0, 1024},
    {"server.max_queued_requests", 1, 1'000'000},
    {"server.stream_window", 1, 1024},
    {"storage.block_cache_bytes", kMiB, kNoLimit},
    {"media.max_image_bytes", kKiB, kNoLimit},
    {"media.max_image_pixels", 1, kNoLimit},
    {"media.max_video_bytes", kKiB, kNoLimit},
    {"media.max_video_pixels", 1, kNoLimit},
    {"media.max_video_decoded_bytes", kMiB, kNoLimit},
    {"media.decode_threads", 0, 1024},
    {"batching.max_rows", 0, 4096},
    {"batching.max_queued_rows", 1, 10'000'000},
    {"batching.threads", 0, 1024},
    {"cache.text_bytes", 0, kNoLimit},
    {"cache.vector_bytes", 0, kNoLimit},
    {"scoring.threads", 1, 1024},
    {"scoring.max_queued", 1, 1'000'000},
    {"index.gpu_memory_bytes", 0, kNoLimit},
    {"index.build_threads", 0, 1024},
    {"index.unsealed_bytes", 0, kNoLimit},
    {"limits.max_text_bytes", 1, kNoLimit},
    {"limits.max_page_size", 1, 10'000},
    {"limits.max_inputs", 1, 100'000},
    {"limits.max_payload_bytes", 0, kNoLimit},
    {"limits.max_collections", 1, 100'000},
};

struct DurationRange {
  absl::string_view path;
  absl::Duration min;
  absl::Duration max;
};
constexpr DurationRange kDurationRanges[] = {
    {"server.drain_timeout", absl::ZeroDuration(), absl::Hours(1)},
    {"storage.sync_interval", absl::Milliseconds(10), absl::Hours(1)},
    {"media.max_video_duration", absl::Seconds(1), absl::Hours(8760)},
    {"media.max_video_decode_time", absl::Milliseconds(100), absl::Hours(24)},
    {"batching.max_age", absl::ZeroDuration(), absl::Seconds(1)},
    {"batching.max_wait", absl::Milliseconds(1), absl::Hours(1)},
    {"scoring.timeout", absl::Milliseconds(10), absl::Hours(1)},
};

constexpr absl::string_view kLogLevels[] = {"trace",   "debug", "info",
                                            "warning", "error", "off"};

constexpr absl::string_view kEnvironmentPrefix = "QUERN_";

std::string DefaultModelPath() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  std::string cache = variable("QUERN_CACHE");
  if (cache.empty()) {
    const std::string user_cache = variable("XDG_CACHE_HOME");
    cache = user_cache.empty() ? absl::StrCat(variable("HOME"), "/.cache/quern")
                               : absl::StrCat(user_cache, "/quern");
  }
  return absl::StrCat(cache, "/models/quern-lite");
}

absl::Status Bad(absl::string_view message) {
  return absl::InvalidArgumentError(message);
}

absl::Status CheckInteger(absl::string_view path, int64_t value) {
  const auto* range = absl::c_find_if(
      kIntegerRanges,
      [&](const IntegerRange& range) { return range.path == path; });
  if (range == std::end(kIntegerRanges) ||
      (value >= range->min && value <= range->max)) {
    return absl::OkStatus();
  }
  if (range->max == kNoLimit) {
    return Bad(
        absl::StrCat("is ", value, "; it must be ", range->min, " or more"));
  }
  return Bad(absl::StrCat("is ", value, "; it must be ", range->min, " to ",
                          range->max));
}

// "127.0.0.1:7070", "[::1]:0", "localhost:7070".
absl::Status CheckAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::c_all_of(address.substr(colon + 1), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65'535) {
    return Bad(absl::StrCat(Quoted(address),
                            " is not host:port with a port of 0 to 65535"));
  }
  return absl::OkStatus();
}

absl::Status CheckDevice(absl::string_view device) {
  absl::string_view number = device;
  const bool is_cuda = absl::ConsumePrefix(&number, "cuda:") &&
                       !number.empty() &&
                       absl::c_all_of(number, absl::ascii_isdigit);
  if (device == "cpu" || is_cuda) return absl::OkStatus();
  return Bad(
      absl::StrCat(Quoted(device), " is neither \"cpu\" nor \"cuda:N\""));
}

absl::Status CheckString(absl::string_view path, const std::string& value) {
  if (path == "server.address") return CheckAddress(value);
  if (path == "metrics.address" && !value.empty()) return CheckAddress(value);
  if (path == "models.device") return CheckDevice(value);
  if (path == "storage.path" && value.empty()) return Bad("is empty");
  if (path == "log.level" && !absl::c_linear_search(kLogLevels, value)) {
    return Bad(absl::StrCat(
        Quoted(value),
        " is not one of: trace, debug, info, warning, error, off"));
  }
  return absl::OkStatus();
}

absl::Status CheckDuration(absl::string_view path,
                           const google::protobuf::Duration& duration) {
  const absl::Duration value = DurationOf(duration);
  const auto* range = absl::c_find_if(
      kDurationRanges,
      [&](const DurationRange& range) { return range.path == path; });
  if (range == std::end(kDurationRanges) ||
      (value >= range->min && value <= range->max)) {
    return absl::OkStatus();
  }
  return Bad(absl::StrCat("is ", absl::FormatDuration(value), "; it must be ",
                          absl::FormatDuration(range->min), " to ",
                          absl::FormatDuration(range->max)));
}

absl::Status CheckList(absl::string_view path, const Message& parent,
                       const FieldDescriptor& field) {
  if (path != "scoring.remote") return absl::OkStatus();
  const google::protobuf::Reflection& reflection = *parent.GetReflection();
  for (int i = 0; i < reflection.FieldSize(parent, &field); ++i) {
    QUERN_RETURN_IF_ERROR(
        CheckAddress(reflection.GetRepeatedString(parent, &field, i)));
  }
  return absl::OkStatus();
}

absl::Status CheckField(absl::string_view path, const Message& parent,
                        const FieldDescriptor& field) {
  if (field.is_repeated()) return CheckList(path, parent, field);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return CheckInteger(path,
                          parent.GetReflection()->GetInt32(parent, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return CheckInteger(path,
                          parent.GetReflection()->GetInt64(parent, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return CheckString(path,
                         parent.GetReflection()->GetString(parent, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return CheckDuration(
          path, static_cast<const google::protobuf::Duration&>(
                    parent.GetReflection()->GetMessage(parent, &field)));
    default:
      return absl::OkStatus();
  }
}

}  // namespace

absl::Duration DurationOf(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

v1::Config DefaultConfig() {
  v1::Config config;
  v1::ServerConfig& server = *config.mutable_server();
  server.set_address("127.0.0.1:7070");
  server.set_max_message_bytes(64 * kMiB);
  server.set_threads(0);
  server.set_max_queued_requests(1024);
  server.mutable_drain_timeout()->set_seconds(30);
  server.set_stream_window(32);
  server.set_role(v1::ServerConfig::ROLE_ALL);
  config.mutable_metrics()->set_address("127.0.0.1:7071");
  config.mutable_log()->set_level("info");
  config.mutable_log()->set_format(v1::LogConfig::FORMAT_TEXT);
  config.mutable_storage()->set_path("./quern-data");
  config.mutable_storage()->set_block_cache_bytes(64 * kMiB);
  config.mutable_storage()->set_sync(v1::StorageConfig::SYNC_BATCH);
  config.mutable_storage()->mutable_sync_interval()->set_seconds(1);
  config.mutable_models()->add_paths(DefaultModelPath());
  config.mutable_models()->set_device("cpu");
  config.mutable_models()->set_precision(v1::ModelsConfig::PRECISION_AUTO);
  v1::MediaConfig& media = *config.mutable_media();
  media.set_max_image_bytes(32 * kMiB);
  media.set_max_image_pixels(100'000'000);
  media.set_max_video_bytes(1024 * kMiB);
  media.set_max_video_pixels(int64_t{8192} * 4320);
  media.mutable_max_video_duration()->set_seconds(int64_t{4} * 3600);
  media.set_max_video_decoded_bytes(int64_t{64} * 1024 * kMiB);
  media.mutable_max_video_decode_time()->set_seconds(60);
  media.set_decode_threads(0);
  v1::BatchingConfig& batching = *config.mutable_batching();
  batching.set_max_rows(0);
  batching.mutable_max_age()->set_seconds(0);
  batching.mutable_max_wait()->set_nanos(500'000'000);
  batching.set_max_queued_rows(4096);
  batching.set_threads(0);
  config.mutable_cache()->set_text_bytes(64 * kMiB);
  config.mutable_cache()->set_vector_bytes(64 * kMiB);
  v1::ScoringConfig& scoring = *config.mutable_scoring();
  scoring.mutable_timeout()->set_seconds(10);
  scoring.set_threads(16);
  scoring.set_max_queued(256);
  v1::IndexingConfig& index = *config.mutable_index();
  index.set_gpu_memory_bytes(0);
  index.set_gpu_storage(v1::IndexingConfig::GPU_STORAGE_FP16);
  index.set_build_threads(0);
  index.set_unsealed_bytes(0);
  v1::LimitsConfig& limits = *config.mutable_limits();
  limits.set_max_text_bytes(64 * kKiB);
  limits.set_max_page_size(10'000);
  limits.set_max_inputs(1024);
  limits.set_max_payload_bytes(64 * kKiB);
  limits.set_max_collections(1000);
  return config;
}

absl::Status MergeYaml(absl::string_view yaml, absl::string_view name,
                       v1::Config& config) {
  return MergeYamlInto(yaml, name, CheckField, config);
}

absl::Status MergeFile(const std::string& path, v1::Config& config) {
  QUERN_ASSIGN_OR_RETURN(const std::string yaml, ReadFile(path));
  return MergeYaml(yaml, path, config);
}

absl::Status MergeAssignment(absl::string_view assignment, v1::Config& config) {
  const size_t equals = assignment.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", Quoted(assignment), ": must be key=value"));
  }
  const absl::string_view path = assignment.substr(0, equals);
  return AssignPath(path, assignment.substr(equals + 1), "--set", CheckField,
                    config);
}

absl::Status MergeEnvironment(
    const std::vector<std::pair<std::string, std::string>>& variables,
    v1::Config& config) {
  for (const auto& [name, value] : variables) {
    absl::string_view key = name;
    if (!absl::ConsumePrefix(&key, kEnvironmentPrefix) ||
        !absl::StrContains(key, "__")) {
      continue;
    }
    const std::string path =
        absl::AsciiStrToLower(absl::StrReplaceAll(key, {{"__", "."}}));
    QUERN_RETURN_IF_ERROR(AssignPath(
        path, value, absl::StrCat("environment ", name), CheckField, config));
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, std::string>> ProcessEnvironment() {
  std::vector<std::pair<std::string, std::string>> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos) continue;
    variables.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

std::string ConfigToYaml(const v1::Config& config) {
  return MessageToYaml(config);
}

}  // namespace quern
