// Ids equal to the reference implementation's on quern-lite's vocabulary.

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

#include "engine/text/wordpiece_tokenizer.h"

namespace quern {
namespace {

// quern-lite's limit, under which the file was written.
constexpr int64_t kMaxTokens = 128;

// One object a line: text, ids, truncated. Written by Hugging Face tokenizers.
constexpr char kGoldenFile[] = "models/quern_lite/golden/wordpiece.jsonl";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path << " is missing: run scripts/setup";
  std::stringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

std::string VocabularyPath() {
  const char* cache = std::getenv("QUERN_CACHE");
  return absl::StrCat(cache == nullptr ? "" : cache,
                      "/models/quern-lite/vocab.txt");
}

TEST(WordPieceGoldenTest, AgreesWithTheReference) {
  const auto tokenizer = WordPieceTokenizer::Create(
      {.vocabulary = ReadFile(VocabularyPath()), .max_tokens = kMaxTokens});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::istringstream lines(ReadFile(kGoldenFile));
  std::string line;
  int texts = 0;
  while (std::getline(lines, line)) {
    const nlohmann::json expected = nlohmann::json::parse(line);
    const Tokens tokens =
        (*tokenizer)->Tokenize(expected["text"].get<std::string>());
    EXPECT_EQ(tokens.ids, expected["ids"].get<std::vector<int32_t>>()) << line;
    EXPECT_EQ(tokens.truncated, expected["truncated"].get<bool>()) << line;
    ++texts;
  }
  EXPECT_GT(texts, 0);
}

}  // namespace
}  // namespace quern
