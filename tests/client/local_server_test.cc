#include "client/cli/local_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/connection.h"
#include "tests/client/temp_folder.h"

namespace quern::cli {
namespace {

using testing::Contains;
using testing::HasSubstr;

namespace fs = std::filesystem;

TEST(LocalServerTest, ArgumentsAskForAPrivateServer) {
  const auto arguments = LocalServerArguments("/bin/quernd", "/my data");
  EXPECT_EQ(arguments[0], "/bin/quernd");
  EXPECT_THAT(arguments, Contains("server.address=127.0.0.1:0"));
  EXPECT_THAT(arguments, Contains("metrics.address="));
  EXPECT_THAT(arguments, Contains("storage.path=/my data"));
}

TEST(LocalServerTest, ReadsTheReadyLine) {
  EXPECT_EQ(*ParseReadyLine(
                "quernd ready address=127.0.0.1:4711 metrics=127.0.0.1:1\n"),
            "127.0.0.1:4711");
  EXPECT_EQ(*ParseReadyLine("quernd ready address=[::1]:1"), "[::1]:1");
  EXPECT_FALSE(ParseReadyLine("quernd ready metrics=x").ok());
  EXPECT_FALSE(ParseReadyLine("quernd ready address=\n").ok());
  EXPECT_FALSE(ParseReadyLine("hello").ok());
}

// Shell scripts in quernd's place.
class LocalServerProcessTest : public testing::Test {
 protected:
  LocalServerOptions Script(const std::string& text) {
    LocalServerOptions options;
    options.binary = folder_.Write("quernd", "#!/bin/sh\n" + text);
    fs::permissions(options.binary, fs::perms::owner_all);
    return options;
  }

  // Says that it is ready, then what ended it and where its data was.
  LocalServerOptions WellBehaved() {
    return Script("trap 'kill $!; echo \"$8\" > " +
                  (folder_.path() / "end").string() +
                  "; exit 0' TERM\n"
                  "mkdir -p \"${8#storage.path=}\"\n"
                  "sleep 1000 &\n"
                  "echo 'quernd ready address=127.0.0.1:4711 metrics='\n"
                  "wait\n");
  }

  TempFolder folder_;
};

TEST_F(LocalServerProcessTest, IsStoppedAndCleanedUp) {
  {
    const auto server = LocalServer::Start(WellBehaved());
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_EQ((*server)->address(), "127.0.0.1:4711");
  }
  const std::string data = folder_.Read("end");
  ASSERT_THAT(data, HasSubstr("storage.path="));
  const std::string path =
      data.substr(data.find('=') + 1, data.size() - data.find('=') - 2);
  EXPECT_FALSE(fs::exists(fs::path(path).parent_path())) << path;
}

TEST_F(LocalServerProcessTest, LeavesAGivenDataFolderAlone) {
  LocalServerOptions options = WellBehaved();
  options.data_folder = folder_.path() / "mine";
  fs::create_directory(options.data_folder);
  { ASSERT_TRUE(LocalServer::Start(options).ok()); }
  EXPECT_THAT(folder_.Read("end"), HasSubstr(options.data_folder.string()));
  EXPECT_TRUE(fs::exists(options.data_folder));
}

TEST_F(LocalServerProcessTest, AFailedStartTellsTheLog) {
  const auto server =
      LocalServer::Start(Script("echo 'the model is missing' >&2; exit 1\n"));
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(server.status().message(), HasSubstr("the model is missing"));
}

TEST_F(LocalServerProcessTest, AStartThatTakesTooLongIsGivenUp) {
  LocalServerOptions options = Script("exec tail -f /dev/null\n");
  options.start_timeout = absl::Milliseconds(1);
  const auto server = LocalServer::Start(options);
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(server.status().message(), HasSubstr("was not ready within 1ms"));
}

TEST_F(LocalServerProcessTest, AServerThatDoesNotListenToSigtermIsKilled) {
  LocalServerOptions options = Script(
      "trap '' TERM\n"
      "echo 'quernd ready address=127.0.0.1:4711'\n"
      "exec tail -f /dev/null\n");
  options.stop_timeout = absl::Milliseconds(1);
  EXPECT_TRUE(LocalServer::Start(options).ok());
}

TEST_F(LocalServerProcessTest, AnInterruptEndsTheWait) {
  std::stop_source stop;
  stop.request_stop();
  LocalServerOptions options = Script("exec tail -f /dev/null\n");
  options.interrupt = stop.get_token();
  EXPECT_TRUE(absl::IsCancelled(LocalServer::Start(options).status()));
}

TEST_F(LocalServerProcessTest, IsFoundBesideTheProgramOrByName) {
  std::ostringstream out;
  std::string named;
  Console console{
      .out = out,
      .err = out,
      .getenv =
          [&named](const std::string& name) -> std::optional<std::string> {
        if (name != "QUERND" || named.empty()) return std::nullopt;
        return named;
      },
      .program_folder = folder_.path(),
      .now = {},
      .interrupt = {},
      .abort = {}};
  EXPECT_TRUE(absl::IsNotFound(FindServerBinary(console).status()));
  const fs::path binary = Script("").binary;
  EXPECT_EQ(*FindServerBinary(console), binary);
  named = "/no/such/quernd";
  EXPECT_THAT(FindServerBinary(console).status().message(),
              HasSubstr("which QUERND names"));
}

}  // namespace
}  // namespace quern::cli
