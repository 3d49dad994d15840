#pragma once

#include <atomic>
#include <stop_token>
#include <thread>

namespace quern::cli {

// Turns SIGINT and SIGTERM into stop tokens: the first signal stops first(),
// any further one stops second().
//
// Make one at the start of main(), before any thread: threads started later
// leave these signals to it. A process started later inherits the blocked
// signals and must unblock them.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();

  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  std::stop_token first() const { return first_.get_token(); }
  std::stop_token second() const { return second_.get_token(); }

 private:
  void AwaitSignals();

  std::stop_source first_;
  std::stop_source second_;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

}  // namespace quern::cli
