#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "quern/v1/config.pb.h"

// The server's log: one line an event on standard error, as key=value or as a
// JSON object. Thread-safe.

namespace quern {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError };

// A named value of a line.
struct LogField {
  LogField(absl::string_view key, absl::string_view value)
      : key(key), value(std::string(value)) {}
  LogField(absl::string_view key, const char* value)
      : LogField(key, absl::string_view(value)) {}
  LogField(absl::string_view key, const std::string& value)
      : LogField(key, absl::string_view(value)) {}
  LogField(absl::string_view key, int64_t value) : key(key), value(value) {}
  LogField(absl::string_view key, double value) : key(key), value(value) {}

  std::string key;
  std::variant<std::string, int64_t, double> value;
};

// Sets level and format, and sends what protobuf and gRPC print themselves to
// this log at level debug. Called once, before other threads log; without it
// the level is info and the format text.
void ConfigureLog(const v1::LogConfig& config);

bool IsLogged(LogLevel level);
void Log(LogLevel level, absl::string_view event,
         const std::vector<LogField>& fields);

// The line itself, without its end. Control characters and quotes are escaped,
// so that no value can forge a line or a field.
std::string FormatLogLine(v1::LogConfig::Format format, absl::Time time,
                          LogLevel level, absl::string_view event,
                          const std::vector<LogField>& fields);

}  // namespace quern
