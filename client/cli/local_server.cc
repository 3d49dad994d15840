#include "client/cli/local_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace quern::cli {
namespace {

namespace fs = std::filesystem;

// How long a wait may be deaf to an interrupt.
constexpr absl::Duration kPollInterval = absl::Milliseconds(100);

// The child's side of fork(): only calls that are safe after it. Never returns.
[[noreturn]] void RunServer(const std::vector<char*>& arguments, int output,
                            int log, pid_t parent) {
  // Its own group, so that the terminal's SIGINT reaches only the command,
  // which stops it when it has finished.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  struct sigaction usual = {};
  usual.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &usual, nullptr);
  dup2(output, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(arguments[0], arguments.data());
  constexpr absl::string_view kFailure = "cannot be executed\n";
  (void)!write(STDERR_FILENO, kFailure.data(), kFailure.size());
  _exit(127);
}

// The last lines of a text file, for an error message.
std::string LastLines(const fs::path& path) {
  constexpr size_t kLines = 5;
  std::ifstream file(path);
  std::deque<std::string> lines;
  std::string line;
  while (std::getline(file, line)) {
    lines.push_back(line);
    if (lines.size() > kLines) lines.pop_front();
  }
  return absl::StrJoin(lines, " | ");
}

}  // namespace

std::vector<std::string> LocalServerArguments(
    const fs::path& binary, const fs::path& data_folder,
    const std::vector<std::string>& settings) {
  std::vector<std::string> arguments = {
      binary.string(),
      "--set",
      "server.address=127.0.0.1:0",
      "--set",
      "metrics.address=",
      "--set",
      "log.level=warning",
      "--set",
      absl::StrCat("storage.path=", data_folder.string())};
  for (const std::string& setting : settings) {
    arguments.insert(arguments.end(), {"--set", setting});
  }
  return arguments;
}

absl::StatusOr<std::string> ParseReadyLine(absl::string_view line) {
  constexpr absl::string_view kStart = "quernd ready ";
  constexpr absl::string_view kAddress = "address=";
  if (absl::ConsumePrefix(&line, kStart)) {
    for (absl::string_view word :
         absl::StrSplit(line, absl::ByAnyChar(" \r\n"))) {
      if (absl::ConsumePrefix(&word, kAddress) && !word.empty()) {
        return std::string(word);
      }
    }
  }
  return absl::InvalidArgumentError("quernd did not say where it listens");
}

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(
    LocalServerOptions options) {
  std::unique_ptr<LocalServer> server(new LocalServer(std::move(options)));
  if (absl::Status status = server->MakeFolders(); !status.ok()) return status;
  if (absl::Status status = server->Launch(); !status.ok()) return status;
  absl::StatusOr<std::string> line = server->AwaitReadyLine();
  if (!line.ok()) return line.status();
  absl::StatusOr<std::string> address = ParseReadyLine(*line);
  if (!address.ok()) return server->StartFailure(address.status().message());
  server->address_ = *std::move(address);
  return server;
}

LocalServer::LocalServer(LocalServerOptions options)
    : options_(std::move(options)) {}

LocalServer::~LocalServer() {
  if (process_ > 0) {
    kill(process_, SIGTERM);
    if (!AwaitEnd(absl::Now() + options_.stop_timeout)) kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
  std::error_code ignored;
  if (!temporary_folder_.empty()) fs::remove_all(temporary_folder_, ignored);
}

absl::Status LocalServer::MakeFolders() {
  std::error_code error;
  const fs::path base = fs::temp_directory_path(error);
  std::string pattern = (error ? fs::path("/tmp") : base) / "quern-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", pattern));
  }
  temporary_folder_ = pattern;
  log_path_ = temporary_folder_ / "quernd.log";
  return absl::OkStatus();
}

absl::Status LocalServer::Launch() {
  const fs::path data = options_.data_folder.empty()
                            ? temporary_folder_ / "data"
                            : fs::absolute(options_.data_folder);
  std::vector<std::string> arguments =
      LocalServerArguments(options_.binary, data, options_.settings);
  std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);

  std::array<int, 2> pipe_ends = {};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "pipe");
  }
  output_ = pipe_ends[0];
  const int log = open(log_path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ == 0) RunServer(pointers, pipe_ends[1], log, parent);
  const int fork_error = errno;
  close(pipe_ends[1]);
  if (log >= 0) close(log);
  if (process_ < 0) return absl::ErrnoToStatus(fork_error, "fork");
  return absl::OkStatus();
}

absl::StatusOr<std::string> LocalServer::AwaitReadyLine() {
  const absl::Time deadline = absl::Now() + options_.start_timeout;
  std::string line;
  while (!absl::StrContains(line, '\n')) {
    if (options_.interrupt.stop_requested()) {
      return absl::CancelledError("interrupted");
    }
    if (absl::Now() >= deadline) {
      return StartFailure(
          absl::StrCat("was not ready within ",
                       absl::FormatDuration(options_.start_timeout)));
    }
    pollfd waiting = {.fd = output_, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1,
             static_cast<int>(absl::ToInt64Milliseconds(kPollInterval))) <= 0) {
      continue;
    }
    std::array<char, 512> buffer = {};
    const ssize_t count = read(output_, buffer.data(), buffer.size());
    if (count == 0) return StartFailure("stopped at once");
    if (count > 0) line.append(buffer.data(), static_cast<size_t>(count));
  }
  return line;
}

bool LocalServer::AwaitEnd(absl::Time deadline) {
  std::array<char, 512> buffer = {};
  while (true) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd waiting = {.fd = output_, .events = POLLIN, .revents = 0};
    const int ready = poll(
        &waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0 && read(output_, buffer.data(), buffer.size()) == 0) {
      return true;
    }
  }
}

absl::Status LocalServer::StartFailure(absl::string_view reason) {
  const std::string log = LastLines(log_path_);
  return absl::InternalError(absl::StrCat("the private server ",
                                          options_.binary.string(), " ", reason,
                                          log.empty() ? "" : ": ", log));
}

}  // namespace quern::cli
