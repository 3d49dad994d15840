#include "server/log.h"

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

#include "engine/base/utf8.h"

namespace quern {
namespace {

std::atomic<v1::LogConfig::Format> global_format = v1::LogConfig::FORMAT_TEXT;

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return "trace";
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "";
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::off;
}

spdlog::logger& Logger() {
  static spdlog::logger* const logger = [] {
    auto* made = new spdlog::logger(
        "quern", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->set_level(spdlog::level::info);
    return made;
  }();
  return *logger;
}

std::string FormatNumber(double value) {
  return absl::StrFormat("%.3f", value);
}

std::string TextValue(const LogField& field) {
  if (const auto* number = std::get_if<int64_t>(&field.value)) {
    return absl::StrCat(*number);
  }
  if (const auto* number = std::get_if<double>(&field.value)) {
    return FormatNumber(*number);
  }
  const auto& text = std::get<std::string>(field.value);
  const std::string escaped = IsValidUtf8(text) ? absl::Utf8SafeCHexEscape(text)
                                                : absl::CHexEscape(text);
  const bool is_plain = !text.empty() && text == escaped &&
                        text.find_first_of(" =") == std::string::npos;
  return is_plain ? text : absl::StrCat("\"", escaped, "\"");
}

void ForwardGrpc(gpr_log_func_args* args) {
  Log(LogLevel::kDebug, "grpc", {{"message", args->message}});
}

void ForwardProtobuf(google::protobuf::LogLevel /*level*/, const char* /*file*/,
                     int /*line*/, const std::string& message) {
  Log(LogLevel::kDebug, "protobuf", {{"message", message}});
}

}  // namespace

void ConfigureLog(const v1::LogConfig& config) {
  global_format = config.format() == v1::LogConfig::FORMAT_JSON
                      ? v1::LogConfig::FORMAT_JSON
                      : v1::LogConfig::FORMAT_TEXT;
  // spdlog knows our names of the levels.
  Logger().set_level(spdlog::level::from_str(config.level()));
  gpr_set_log_function(ForwardGrpc);
  google::protobuf::SetLogHandler(ForwardProtobuf);
}

bool IsLogged(LogLevel level) { return Logger().should_log(ToSpdlog(level)); }

void Log(LogLevel level, absl::string_view event,
         const std::vector<LogField>& fields) {
  if (!IsLogged(level)) return;
  const std::string line =
      FormatLogLine(global_format, absl::Now(), level, event, fields);
  Logger().log(ToSpdlog(level), spdlog::string_view_t(line));
}

std::string FormatLogLine(v1::LogConfig::Format format, absl::Time time,
                          LogLevel level, absl::string_view event,
                          const std::vector<LogField>& fields) {
  const std::string stamp =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  if (format == v1::LogConfig::FORMAT_JSON) {
    nlohmann::ordered_json object;
    object["time"] = stamp;
    object["level"] = std::string(LevelName(level));
    object["event"] = std::string(event);
    for (const LogField& field : fields) {
      std::visit([&](const auto& value) { object[field.key] = value; },
                 field.value);
    }
    return object.dump(-1, ' ', false,
                       nlohmann::ordered_json::error_handler_t::replace);
  }
  std::string line = absl::StrCat(stamp, " ", LevelName(level), " ", event);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=", TextValue(field));
  }
  return line;
}

}  // namespace quern
