#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "client/cli/console.h"

namespace quern::cli {

// How far a long job is.
struct ProgressState {
  int64_t done = 0;    // Failures included.
  int64_t failed = 0;  // <= done.
  int64_t total = 0;
  absl::Duration elapsed;
};

// "  120/290  41%  24.1/s  7 s left  2 failed".
std::string FormatProgress(const ProgressState& state);

// With a bar before it, of at most `width` columns.
std::string FormatProgressBar(const ProgressState& state, int width);

// 7 s, 3 min 20 s, 2 h 5 min.
std::string FormatTime(absl::Duration duration);

// Shows progress on the console's `err`: a bar that is drawn over on a
// terminal, a line now and then otherwise. Thread-safe.
class Progress {
 public:
  // `console` must outlive it. `verb` is shown in front: "Indexing".
  Progress(Console* console, std::string verb, int64_t total);
  // Clears the bar.
  ~Progress();

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Add(bool failed);

  ProgressState state() const;

 private:
  ProgressState StateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Show() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Console* const console_;
  const std::string verb_;
  const int64_t total_;
  const absl::Time start_;
  mutable absl::Mutex mutex_;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time next_show_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern::cli
