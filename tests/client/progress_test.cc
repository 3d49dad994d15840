#include "client/cli/progress.h"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/text.h"

namespace quern::cli {
namespace {

using testing::HasSubstr;

TEST(ProgressTest, TellsRateTimeLeftAndFailures) {
  EXPECT_EQ(FormatProgress({120, 2, 300, absl::Seconds(5)}),
            "120/300  40%  24.0/s  8 s left  2 failed");
  EXPECT_EQ(FormatProgress({0, 0, 300, absl::ZeroDuration()}), "0/300  0%");
  EXPECT_EQ(FormatProgress({0, 0, 0, absl::ZeroDuration()}), "0/0  100%");
}

TEST(ProgressTest, TimesAreForPeople) {
  EXPECT_EQ(FormatTime(absl::Seconds(7.4)), "7 s");
  EXPECT_EQ(FormatTime(absl::Seconds(200)), "3 min 20 s");
  EXPECT_EQ(FormatTime(absl::Minutes(125)), "2 h 5 min");
}

TEST(ProgressTest, TheBarKeepsToTheWidth) {
  const ProgressState state = {120, 2, 300, absl::Seconds(5)};
  for (int width = 1; width < 120; ++width) {
    EXPECT_LE(DisplayWidth(FormatProgressBar(state, width)), width);
  }
  EXPECT_THAT(FormatProgressBar(state, 80), HasSubstr("█"));
}

class ProgressOutputTest : public testing::Test {
 protected:
  Console MakeConsole(bool is_terminal) {
    return Console{.out = out_,
                   .err = err_,
                   .err_is_terminal = is_terminal,
                   .err_width = 80,
                   .getenv = {},
                   .program_folder = {},
                   .now = [this] { return now_; },
                   .interrupt = {},
                   .abort = {}};
  }

  std::ostringstream out_;
  std::ostringstream err_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(ProgressOutputTest, PrintsALineNowAndThenWithoutATerminal) {
  Console console = MakeConsole(false);
  Progress progress(&console, "Indexing", 100);
  for (int i = 0; i < 50; ++i) {
    now_ += absl::Seconds(0.5);
    progress.Add(false);
  }
  EXPECT_EQ(err_.str(),
            "Indexing 20/100  20%  2.0/s  40 s left\n"
            "Indexing 40/100  40%  2.0/s  30 s left\n");
}

TEST_F(ProgressOutputTest, DrawsOverItselfOnATerminal) {
  Console console = MakeConsole(true);
  {
    Progress progress(&console, "Indexing", 2);
    now_ += absl::Seconds(1);
    progress.Add(false);
    progress.Add(true);  // Too soon to draw again.
  }
  EXPECT_THAT(err_.str(), HasSubstr("\rIndexing █"));
  EXPECT_EQ(err_.str().find('\n'), std::string::npos);
  EXPECT_EQ(err_.str().substr(err_.str().size() - 4), "\r\x1b[K");
}

}  // namespace
}  // namespace quern::cli
