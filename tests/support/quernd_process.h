#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/temporary_directory.h"

namespace quern {

// The real quernd in a process of its own, on a free port of 127.0.0.1. It dies
// with the test. Not thread-safe.
class QuerndProcess {
 public:
  // Starts it and waits until it is ready or has ended. `extra` follows the
  // arguments that every test wants.
  QuerndProcess(const std::string& data_path,
                const std::vector<std::string>& extra = {}) {
    const std::string binary =
        absl::StrCat(std::getenv("QUERN_BIN"), "/quernd");
    std::vector<std::string> arguments = {
        binary,
        "--set",
        "server.address=127.0.0.1:0",
        "--set",
        "metrics.address=127.0.0.1:0",
        "--set",
        absl::StrCat("storage.path=", data_path)};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    Spawn(arguments);
    WaitUntilReady();
  }

  ~QuerndProcess() {
    if (pid_ > 0) Kill();
  }
  QuerndProcess(const QuerndProcess&) = delete;
  QuerndProcess& operator=(const QuerndProcess&) = delete;

  bool ready() const { return !address_.empty(); }
  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  pid_t pid() const { return pid_; }

  std::shared_ptr<grpc::Channel> Channel() const {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    // Each process of a test is reached by a connection of its own.
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    return grpc::CreateCustomChannel(
        address_, grpc::InsecureChannelCredentials(), arguments);
  }

  // Standard error so far.
  std::string Log() const {
    std::ifstream file(log_path());
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  void Signal(int signal) const { kill(pid_, signal); }

  // kill -9.
  void Kill() {
    Signal(SIGKILL);
    Wait();
  }

  // SIGTERM; returns the exit status.
  int Terminate() {
    Signal(SIGTERM);
    return Wait();
  }

  // Waits for the end; returns the exit status, or -signal.
  int Wait() {
    if (pid_ > 0) {
      int status = 0;
      waitpid(pid_, &status, 0);
      exit_status_ =
          WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      pid_ = -1;
    }
    return exit_status_;
  }

 private:
  std::string log_path() const { return absl::StrCat(scratch_.path(), "/log"); }

  void Spawn(std::vector<std::string>& arguments) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string log = log_path();
    const pid_t parent = getpid();
    pid_ = fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(127);
      dup2(ends[1], STDOUT_FILENO);
      dup2(open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644),
           STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    stdout_ = ends[0];
  }

  // Reads standard output until the line that says so, or its end.
  void WaitUntilReady() {
    std::string output;
    char buffer[256];
    ssize_t length = 0;
    while (!absl::StrContains(output, "\n") &&
           (length = read(stdout_, buffer, sizeof buffer)) > 0) {
      output.append(buffer, length);
    }
    close(stdout_);
    address_ = Value(output, "address=");
    metrics_address_ = Value(output, "metrics=");
    if (!ready()) Wait();
  }

  static std::string Value(const std::string& line, absl::string_view key) {
    const size_t begin = line.find(std::string(key));
    if (begin == std::string::npos) return "";
    const size_t start = begin + key.size();
    return line.substr(start, line.find_first_of(" \n", start) - start);
  }

  TemporaryDirectory scratch_;
  pid_t pid_ = -1;
  int stdout_ = -1;
  int exit_status_ = 0;
  std::string address_;
  std::string metrics_address_;
};

}  // namespace quern
