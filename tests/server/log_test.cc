#include "server/log.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quern {
namespace {

const absl::Time kTime = absl::FromUnixMillis(1'700'000'000'123);

std::string Text(const std::vector<LogField>& fields) {
  return FormatLogLine(v1::LogConfig::FORMAT_TEXT, kTime, LogLevel::kInfo,
                       "call", fields);
}

TEST(LogTest, TextLinesAreKeysAndValues) {
  EXPECT_EQ(Text({{"method", "a/B"}, {"bytes", int64_t{7}}, {"ms", 1.25}}),
            "2023-11-14T22:13:20.123Z info call method=a/B bytes=7 ms=1.250");
}

TEST(LogTest, TextValuesCannotForgeLinesOrFields) {
  EXPECT_EQ(Text({{"error", "x\n2023 info call code=OK"}}),
            "2023-11-14T22:13:20.123Z info call "
            "error=\"x\\n2023 info call code=OK\"");
  EXPECT_EQ(Text({{"a", ""}, {"b", "q\"=\\"}, {"c", "\xff"}, {"d", "ü"}}),
            "2023-11-14T22:13:20.123Z info call a=\"\" b=\"q\\\"=\\\\\" "
            "c=\"\\xff\" d=ü");
}

TEST(LogTest, JsonLinesReadBack) {
  const std::string line =
      FormatLogLine(v1::LogConfig::FORMAT_JSON, kTime, LogLevel::kError, "call",
                    {{"error", "a \"b\"\n\xff"}, {"bytes", int64_t{7}}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto object = nlohmann::json::parse(line);
  EXPECT_EQ(object["time"], "2023-11-14T22:13:20.123Z");
  EXPECT_EQ(object["level"], "error");
  EXPECT_EQ(object["event"], "call");
  EXPECT_EQ(object["error"], "a \"b\"\n\uFFFD");
  EXPECT_EQ(object["bytes"], 7);
}

TEST(LogTest, LevelsBelowTheConfiguredOneAreNotLogged) {
  v1::LogConfig config;
  config.set_level("warning");
  ConfigureLog(config);
  EXPECT_FALSE(IsLogged(LogLevel::kInfo));
  EXPECT_TRUE(IsLogged(LogLevel::kWarning));
  config.set_level("off");
  ConfigureLog(config);
  EXPECT_FALSE(IsLogged(LogLevel::kError));
}

}  // namespace
}  // namespace quern
