#include "engine/model/text_passes.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/model/encoder.h"

namespace quern {
namespace {

using testing::ElementsAre;

constexpr int64_t kCaption = EncoderTuning::kTextTokens;

std::vector<Tokens> TextsOf(const std::vector<int64_t>& lengths) {
  std::vector<Tokens> texts;
  for (const int64_t length : lengths) {
    texts.push_back({.ids = std::vector<int32_t>(length, 1)});
  }
  return texts;
}

// Tokens of each packed pass.
std::vector<int64_t> PackedPasses(const std::vector<int64_t>& lengths,
                                  int64_t max_rows) {
  const std::vector<Tokens> texts = TextsOf(lengths);
  std::vector<int64_t> passes;
  for (absl::Span<const Tokens> rest = texts; !rest.empty();) {
    const absl::Span<const Tokens> pass = FirstPackedPass(rest, max_rows);
    if (pass.empty()) break;
    passes.push_back(0);
    for (const Tokens& text : pass) {
      passes.back() += static_cast<int64_t>(text.ids.size());
    }
    rest.remove_prefix(pass.size());
  }
  return passes;
}

TEST(TextPassesTest, RoundsSizesUpByAnEighthAtMost) {
  for (int64_t size = 1; size < 5000; ++size) {
    const int64_t rounded = RoundUpSize(size);
    EXPECT_GE(rounded, size);
    EXPECT_LE(8 * (rounded - size), size);
    EXPECT_EQ(RoundUpSize(rounded), rounded);
  }
  EXPECT_EQ(RoundUpSize(15), 15);
  EXPECT_EQ(RoundUpSize(17), 18);
  EXPECT_EQ(RoundUpSize(250), 256);
}

TEST(TextPassesTest, PadsNoMoreThanTheRowsAndTokensGiven) {
  const std::vector<Tokens> texts =
      TextsOf({kCaption, kCaption, kCaption, 2 * kCaption});
  EXPECT_EQ(FirstPaddedPass(texts, 2).size(), 2);
  EXPECT_EQ(FirstPaddedPass(texts, 8).size(), 4);
  // With the fourth, four rows of two captions' length would be padded.
  EXPECT_EQ(FirstPaddedPass(texts, 4).size(), 3);
  EXPECT_EQ(FirstPaddedPass(absl::MakeSpan(texts).subspan(3), 1).size(), 1);
}

TEST(TextPassesTest, PacksUpToHalfAsLongAgain) {
  EXPECT_THAT(PackedPasses({20, 10, 2, 15}, 2), ElementsAre(47));
  EXPECT_THAT(PackedPasses({20, 10, 2, 16}, 2), ElementsAre(20, 28));
}

TEST(TextPassesTest, PacksPassesOfNearlyTheSameLength) {
  EXPECT_THAT(PackedPasses(std::vector<int64_t>(20, kCaption), 8),
              ElementsAre(7 * kCaption, 7 * kCaption, 6 * kCaption));
}

TEST(TextPassesTest, GivesATextBeyondTheBoundAPassOfItsOwn) {
  EXPECT_THAT(PackedPasses({500}, 1), ElementsAre(500));
  EXPECT_THAT(PackedPasses({500, 500}, 1), ElementsAre(500, 500));
  EXPECT_THAT(PackedPasses({}, 1), ElementsAre());
}

}  // namespace
}  // namespace quern
