#include "server/config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;
using ::testing::StrEq;

struct BadYaml {
  const char* yaml;
  const char* message;
};

class BadYamlTest : public ::testing::TestWithParam<BadYaml> {};

TEST_P(BadYamlTest, NamesPathAndLine) {
  v1::Config config = DefaultConfig();
  const absl::Status status = MergeYaml(GetParam().yaml, "q.yaml", config);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               testing::StartsWith(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    Keys, BadYamlTest,
    ::testing::Values(
        BadYaml{"server:\n  adress: x\n",
                "q.yaml:2: server.adress: unknown key; did you mean "
                "server.address?"},
        BadYaml{"\n\nsevrer:\n  threads: 1\n",
                "q.yaml:3: sevrer: unknown key; did you mean server?"},
        BadYaml{"storage:\n  volume_of_the_cellar: 3\n",
                "q.yaml:2: storage.volume_of_the_cellar: unknown key; there "
                "are storage.path, storage.block_cache_bytes, "
                "storage.replica_of"},
        BadYaml{"server:\n  threads: 1\n  threads: 2\n",
                "q.yaml:3: server.threads: is given twice"},
        BadYaml{"log:\n  level: info\nserver:\n  threads: 1\nlog:\n"
                "  level: debug\n",
                "q.yaml:5: log: is given twice"}));

INSTANTIATE_TEST_SUITE_P(
    Types, BadYamlTest,
    ::testing::Values(
        BadYaml{"- a\n- b\n",
                "q.yaml:1: must be a section of keys, not a "
                "list"},
        BadYaml{"server: 7070\n",
                "q.yaml:1: server: must be a section of keys, not a single "
                "value"},
        BadYaml{"server:\n  address: [a, b]\n",
                "q.yaml:2: server.address: must be a single value, not a list"},
        BadYaml{"server:\n  threads:\n    many: 1\n",
                "q.yaml:2: server.threads: must be a single value, not a "
                "section of keys"},
        BadYaml{"server:\n  threads:\n",
                "q.yaml:2: server.threads: must be a single value, not "
                "nothing"},
        BadYaml{"models:\n  paths: /models\n",
                "q.yaml:2: models.paths: must be a list, not a single value"},
        BadYaml{"models:\n  paths:\n    - /a\n    - [/b]\n",
                "q.yaml:4: models.paths[1]: must be a single value, not a "
                "list"},
        BadYaml{"server:\n  threads: many\n",
                "q.yaml:2: server.threads: \"many\" is not a whole number"},
        BadYaml{"server:\n  threads: 2.5\n",
                "q.yaml:2: server.threads: \"2.5\" is not a whole number"},
        BadYaml{"server:\n  threads: 9999999999\n",
                "q.yaml:2: server.threads: \"9999999999\" is not a whole "
                "number that fits"},
        BadYaml{"server:\n  max_message_bytes: 64MB\n",
                "q.yaml:2: server.max_message_bytes: \"64MB\" is not a size "
                "such as"},
        BadYaml{"server:\n  max_message_bytes: 99999999999999GiB\n",
                "q.yaml:2: server.max_message_bytes: "},
        BadYaml{"server:\n  drain_timeout: 30\n",
                "q.yaml:2: server.drain_timeout: \"30\" is not a duration"},
        BadYaml{"server:\n  drain_timeout: inf\n",
                "q.yaml:2: server.drain_timeout: \"inf\" is not a duration"},
        BadYaml{"log:\n  format: xml\n",
                "q.yaml:2: log.format: \"xml\" is not one of: text, json"},
        BadYaml{"log:\n  format: unspecified\n", "q.yaml:2: log.format: "},
        BadYaml{"server:\n  address: a: b: c\n", "q.yaml:2: "},
        BadYaml{"server: {address: \n", "q.yaml:"}));

INSTANTIATE_TEST_SUITE_P(
    Ranges, BadYamlTest,
    ::testing::Values(
        BadYaml{"server:\n  threads: -1\n",
                "q.yaml:2: server.threads: is -1; it must be 0 to 1024"},
        BadYaml{"server:\n  max_message_bytes: 1KiB\n",
                "q.yaml:2: server.max_message_bytes: is 1024; it must be 65536 "
                "to 1073741824"},
        BadYaml{"server:\n  max_queued_requests: 0\n",
                "q.yaml:2: server.max_queued_requests: is 0"},
        BadYaml{"server:\n  stream_window: 1025\n",
                "q.yaml:2: server.stream_window: is 1025"},
        BadYaml{"server:\n  drain_timeout: -1s\n",
                "q.yaml:2: server.drain_timeout: is -1s; it must be 0 to 1h"},
        BadYaml{"server:\n  drain_timeout: 61m\n",
                "q.yaml:2: server.drain_timeout: is 1h1m"},
        BadYaml{"server:\n  address: localhost\n",
                "q.yaml:2: server.address: \"localhost\" is not host:port"},
        BadYaml{"server:\n  address: localhost:70700\n",
                "q.yaml:2: server.address: "},
        BadYaml{"server:\n  address:\n", "q.yaml:2: server.address: "},
        BadYaml{"storage:\n  block_cache_bytes: 0\n",
                "q.yaml:2: storage.block_cache_bytes: is 0; it must be "
                "1048576 or more"},
        BadYaml{"storage:\n  path: \"\"\n", "q.yaml:2: storage.path: is empty"},
        BadYaml{"log:\n  level: loud\n", "q.yaml:2: log.level: \"loud\""},
        BadYaml{"models:\n  device: gpu\n", "q.yaml:2: models.device: \"gpu\""},
        BadYaml{"limits:\n  max_page_size: 10001\n",
                "q.yaml:2: limits.max_page_size: is 10001; it must be 1 to "
                "10000"}));

TEST(ConfigTest, AnEmptyFileLeavesTheDefaults) {
  for (const char* yaml : {"", "\n", "# nothing\n", "server:\nlog:\n"}) {
    v1::Config config = DefaultConfig();
    ASSERT_THAT(MergeYaml(yaml, "q.yaml", config), IsOk());
    EXPECT_TRUE(MessageDifferencer::Equals(config, DefaultConfig()));
  }
}

TEST(ConfigTest, ReadsEveryKindOfValue) {
  v1::Config config = DefaultConfig();
  ASSERT_THAT(MergeYaml("server:\n"
                        "  address: \"[::1]:0\"\n"
                        "  max_message_bytes: 128MiB\n"
                        "  drain_timeout: 1m500ms\n"
                        "  threads: 3\n"
                        "metrics: {address: \"\"}\n"
                        "log: {format: json}\n"
                        "models:\n  paths: [/a, /b]\n",
                        "q.yaml", config),
              IsOk());
  EXPECT_EQ(config.server().address(), "[::1]:0");
  EXPECT_EQ(config.server().max_message_bytes(), 128 << 20);
  EXPECT_EQ(config.server().drain_timeout().seconds(), 60);
  EXPECT_EQ(config.server().drain_timeout().nanos(), 500'000'000);
  EXPECT_EQ(config.server().threads(), 3);
  EXPECT_EQ(config.metrics().address(), "");
  EXPECT_EQ(config.log().format(), v1::LogConfig::FORMAT_JSON);
  EXPECT_THAT(config.models().paths(), testing::ElementsAre("/a", "/b"));
  EXPECT_EQ(config.limits().max_inputs(),
            DefaultConfig().limits().max_inputs());
}

TEST(ConfigTest, WhatIsPrintedReadsBack) {
  v1::Config config = DefaultConfig();
  ASSERT_THAT(MergeYaml("server:\n  drain_timeout: 90s\n"
                        "storage:\n  path: \"a: b # c\"\n"
                        "models:\n  paths: []\n  default_model: \"12\"\n",
                        "q.yaml", config),
              IsOk());
  v1::Config again = DefaultConfig();
  ASSERT_THAT(MergeYaml(ConfigToYaml(config), "printed", again), IsOk());
  EXPECT_TRUE(MessageDifferencer::Equals(config, again))
      << ConfigToYaml(config);
}

TEST(ConfigTest, AssignmentsTakeTextAsItIs) {
  v1::Config config = DefaultConfig();
  for (const char* assignment :
       {"server.address=[::]:7070", "storage.path=/a b=c: #d",
        "models.paths=[/x, /y]", "server.threads=5", "metrics.address="}) {
    ASSERT_THAT(MergeAssignment(assignment, config), IsOk()) << assignment;
  }
  EXPECT_EQ(config.server().address(), "[::]:7070");
  EXPECT_EQ(config.storage().path(), "/a b=c: #d");
  EXPECT_THAT(config.models().paths(), testing::ElementsAre("/x", "/y"));
  EXPECT_EQ(config.server().threads(), 5);
  EXPECT_EQ(config.metrics().address(), "");
}

TEST(ConfigTest, BadAssignmentsAreNamed) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"server.adress=x", "--set: server.adress: unknown key; did you mean"},
      {"server.threads", "--set \"server.threads\": must be key=value"},
      {"=3", "--set \"=3\": must be key=value"},
      {"server.threads=", "--set: server.threads: must be a single value"},
      {"server.threads=x", "--set: server.threads: \"x\" is not a whole"},
      {"server.threads.x=1", "--set: server.threads has no keys"},
      {"server=1", "--set: server: must be a section of keys"},
      {"models.paths=[/x", "--set:1: "},
      {"..=1", "--set: : unknown key"}};
  for (const auto& [assignment, message] : cases) {
    v1::Config config = DefaultConfig();
    EXPECT_THAT(MergeAssignment(assignment, config),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         testing::StartsWith(message)))
        << assignment;
  }
}

TEST(ConfigTest, TheEnvironmentOverrides) {
  v1::Config config = DefaultConfig();
  ASSERT_THAT(MergeEnvironment({{"HOME", "/x"},
                                {"QUERN_CACHE", "/cache"},
                                {"QUERN_ADDRESS", "nonsense"},
                                {"NOT_QUERN_SERVER__THREADS", "7"},
                                {"QUERN_SERVER__MAX_MESSAGE_BYTES", "1GiB"},
                                {"QUERN_SERVER__ADDRESS", "0.0.0.0:1"}},
                               config),
              IsOk());
  EXPECT_EQ(config.server().address(), "0.0.0.0:1");
  EXPECT_EQ(config.server().max_message_bytes(), 1 << 30);
  EXPECT_THAT(MergeEnvironment({{"QUERN_SERVER__ADRESS", "x"}}, config),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("QUERN_SERVER__ADRESS: server.adress: unknown "
                                 "key")));
}

TEST(ConfigTest, AFileThatCannotBeReadIsNamed) {
  v1::Config config = DefaultConfig();
  EXPECT_THAT(
      MergeFile("/nowhere/quernd.yaml", config),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/quernd.yaml")));
  TemporaryDirectory folder;
  const absl::Status status = MergeFile(folder.path(), config);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder.path()));
}

TEST(ConfigTest, EveryFileInConfigsLoads) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() != ".yaml") continue;
    v1::Config config = DefaultConfig();
    EXPECT_THAT(MergeFile(entry.path(), config), IsOk());
    ++count;
  }
  EXPECT_GE(count, 2);
}

TEST(ConfigTest, TheCommentedFileHasTheDefaults) {
  v1::Config config = DefaultConfig();
  ASSERT_THAT(MergeFile("configs/quernd.yaml", config), IsOk());
  EXPECT_TRUE(MessageDifferencer::Equals(config, DefaultConfig()));
}

}  // namespace
}  // namespace quern
