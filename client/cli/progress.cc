#include "client/cli/progress.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/cli/text.h"

namespace quern::cli {
namespace {

constexpr absl::Duration kBarInterval = absl::Milliseconds(100);
constexpr absl::Duration kLineInterval = absl::Seconds(10);
constexpr int kMaxBarWidth = 32;
constexpr int kMinBarWidth = 6;

double Share(const ProgressState& state) {
  return state.total == 0 ? 1.0
                          : static_cast<double>(state.done) /
                                static_cast<double>(state.total);
}

}  // namespace

std::string FormatTime(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Seconds(0.5));
  if (seconds < 60) return absl::StrCat(seconds, " s");
  if (seconds < 3600) {
    return absl::StrCat(seconds / 60, " min ", seconds % 60, " s");
  }
  return absl::StrCat(seconds / 3600, " h ", seconds / 60 % 60, " min");
}

std::string FormatProgress(const ProgressState& state) {
  std::string text = absl::StrFormat("%d/%d  %d%%", state.done, state.total,
                                     static_cast<int>(100 * Share(state)));
  const double seconds = absl::ToDoubleSeconds(state.elapsed);
  if (state.done > 0 && seconds > 0) {
    const double rate = static_cast<double>(state.done) / seconds;
    const double left = static_cast<double>(state.total - state.done) / rate;
    absl::StrAppendFormat(&text, "  %.1f/s  %s left", rate,
                          FormatTime(absl::Seconds(left)));
  }
  if (state.failed > 0) absl::StrAppend(&text, "  ", state.failed, " failed");
  return text;
}

std::string FormatProgressBar(const ProgressState& state, int width) {
  const std::string text = FormatProgress(state);
  const int room = std::min(width - DisplayWidth(text) - 2, kMaxBarWidth);
  if (room < kMinBarWidth) return CutToWidth(text, width);
  const int full = static_cast<int>(room * Share(state));
  std::string bar;
  for (int i = 0; i < room; ++i) bar += i < full ? "█" : "░";
  return absl::StrCat(bar, "  ", text);
}

Progress::Progress(Console* console, std::string verb, int64_t total)
    : console_(console),
      verb_(std::move(verb)),
      total_(total),
      start_(console->now()),
      next_show_(start_ + (console->err_is_terminal ? absl::ZeroDuration()
                                                    : kLineInterval)) {}

Progress::~Progress() {
  absl::MutexLock lock(&mutex_);
  if (console_->err_is_terminal) console_->err << "\r\x1b[K" << std::flush;
}

void Progress::Add(bool failed) {
  absl::MutexLock lock(&mutex_);
  ++done_;
  failed_ += failed ? 1 : 0;
  if (console_->now() >= next_show_) Show();
}

ProgressState Progress::state() const {
  absl::MutexLock lock(&mutex_);
  return StateLocked();
}

ProgressState Progress::StateLocked() const {
  return {done_, failed_, total_, console_->now() - start_};
}

void Progress::Show() {
  if (console_->err_is_terminal) {
    const int width = console_->err_width - static_cast<int>(verb_.size()) - 2;
    console_->err << "\r" << verb_ << " "
                  << FormatProgressBar(StateLocked(), width) << "\x1b[K"
                  << std::flush;
    next_show_ = console_->now() + kBarInterval;
  } else {
    console_->err << verb_ << " " << FormatProgress(StateLocked()) << std::endl;
    next_show_ = console_->now() + kLineInterval;
  }
}

}  // namespace quern::cli
