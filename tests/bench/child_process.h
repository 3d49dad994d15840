#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace quern {

// Another program that is asked in lines and answers each with one line. It
// dies with this one. Not thread-safe.
class ChildProcess {
 public:
  explicit ChildProcess(std::vector<std::string> arguments) {
    int to_child[2], from_child[2];
    if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0) {
      Die("cannot make a pipe");
    }
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(to_child[0], STDIN_FILENO);
      dup2(from_child[1], STDOUT_FILENO);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    to_ = fdopen(to_child[1], "w");
    from_ = fdopen(from_child[0], "r");
    name_ = arguments.front();
  }
  ~ChildProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    (void)fclose(to_);
    (void)fclose(from_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }

  std::string Ask(const std::string& line) {
    (void)fputs((line + "\n").c_str(), to_);
    (void)fflush(to_);
    return ReadLine();
  }

  std::string ReadLine() {
    std::string line;
    for (int c = fgetc(from_); c != '\n'; c = fgetc(from_)) {
      if (c == EOF) Die(name_ + " has ended before it answered");
      line += static_cast<char>(c);
    }
    return line;
  }

 private:
  [[noreturn]] static void Die(const std::string& why) {
    std::cerr << why << "\n";
    std::exit(1);
  }

  pid_t pid_ = -1;
  std::string name_;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

}  // namespace quern
