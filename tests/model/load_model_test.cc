#include "engine/model/load_model.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/file.h"
#include "engine/model/torch_encoder.h"
#include "tests/model/package_writer.h"
#include "tests/model/tiny_towers.h"
#include "tests/model/torchscript_writer.h"

namespace quern {
namespace {

using Json = nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// The canary's picture is (2, 0, -1) after normalisation, its text the tokens
// 2, 4, 5 and 3: with these weights the towers give (0.8, -0.6) and (0.6, 0.8)
// / 4.
constexpr float kImageWeight = 0.4F;

void WritePackage(const std::string& folder,
                  const Json& canary = TinyCanaryJson()) {
  WriteTinyPackage(folder, TinyModelJson(), canary);
  WriteTorchScript(folder + "/image.ts", kTinyImageTower,
                   {kImageWeight, -0.3F, 0.5F, 0.5F, 0, 0}, 3, 2);
  WriteTorchScript(folder + "/text.ts", kTinyTextTower,
                   {0, 0, 0, 1, 0, 0, 0, 0, 0.6F, 0, 0, 0.8F}, 6, 2);
}

TEST(LoadModelTest, MakesAModelThatEmbeds) {
  const TemporaryFolder folder;
  WritePackage(folder.path());
  const auto model =
      LoadModel({.path = folder.path(), .precision = Precision::kFp32});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().name, "tiny");
  EXPECT_EQ((*model)->info().precision, Precision::kFp32);
  EXPECT_EQ((*model)->info().device, "cpu");
  EXPECT_EQ((*model)->info().max_tokens, 8);
  EXPECT_EQ((*model)->info().memory_bytes, (6 + 12) * sizeof(float));
  EXPECT_EQ((*model)->info().fingerprint.size(), 64U);

  const auto text = (*model)->EmbedText("A");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_FLOAT_EQ(text->embedding[0], 1);
  EXPECT_EQ(text->tokens, 3);

  Image green{.width = 1, .height = 1, .rgb = {100, 200, 100}};
  const auto image = (*model)->EmbedImage(green);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_NEAR((*image)[0], 0.70711F, 1e-5);
}

// A package with a match head, and the grid's cells in its canary.
void WriteMatchingPackage(const std::string& folder, const Json& canary) {
  Json model = TinyModelJson();
  model["capabilities"].push_back("match");
  model["match"] = {{"file", "match.ts"}, {"methods", {{"score", "forward"}}}};
  WritePackage(folder, canary);
  WriteFile(folder + "/model.json", model.dump());
  WriteTorchScript(folder + "/match.ts", kTinyMatchHead);
}

// The pixels' mean is 1/3, the ids' sum 14. Every cell is the whole picture.
Json MatchingCanaryJson() {
  Json canary = TinyCanaryJson();
  canary["images"][0]["cells"] = {
      {{"row", 1}, {"column", 1}, {"embedding", {0.8, -0.6}}}};
  canary["matches"] = {
      {{"text", "a b"}, {"file", "image.png"}, {"score", 14.3333}}};
  return canary;
}

TEST(LoadModelTest, MakesAModelThatMatches) {
  const TemporaryFolder folder;
  WriteMatchingPackage(folder.path(), MatchingCanaryJson());
  const auto model = LoadModel({.path = folder.path()});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->info().Has("match"));
  PixelBatch pixels{.rows = 1, .height = 8, .width = 8};
  pixels.values.assign(3 * 8 * 8, 0.5F);
  const Tokens text{.ids = {2, 4, 3}};
  EXPECT_THAT(*(*model)->encoder().Match(pixels, {&text, 1}),
              testing::ElementsAre(9.5F));
}

TEST(LoadModelTest, HoldsTheHeadAndTheGridToTheCanary) {
  struct Wrong {
    const char* pointer;
    Json value;
    const char* message;
  };
  for (const Wrong& wrong :
       {Wrong{"/matches/0/score", 14.2, "match score of \"a b\""},
        Wrong{"/images/0/cells/0/embedding", {0.6, -0.8}, "row 1, column 1"},
        Wrong{"/images/0/cells/0/column", 2, "has 2 x 2 cells"}}) {
    Json canary = MatchingCanaryJson();
    canary[Json::json_pointer(wrong.pointer)] = wrong.value;
    const TemporaryFolder folder;
    WriteMatchingPackage(folder.path(), canary);
    const absl::Status status = LoadModel({.path = folder.path()}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr(wrong.message));
  }
}

// A package with a moments head. Of the text's four tokens two have a
// direction, (1, 0) and (0, 1): their mean is (0.25, 0.25), its product with
// both frames 0.05, and the logits of the last frame are that and its negative.
void WriteMomentsPackage(const std::string& folder, const Json& moments) {
  Json model = TinyModelJson();
  model["text"]["methods"]["tokens"] = "tokens";
  model["capabilities"].insert(model["capabilities"].end(),
                               {"text.tokens", "moments"});
  model["moments"] = {{"file", "moments.ts"},
                      {"methods", {{"predict", "forward"}}},
                      {"max_frames", 3},
                      {"max_tokens", 4}};
  Json canary = TinyCanaryJson();
  canary["moments"] = {moments};
  WritePackage(folder, canary);
  WriteFile(folder + "/model.json", model.dump());
  WriteTorchScript(folder + "/moments.ts", kTinyMomentsHead);
}

Json CanaryMomentJson() {
  return Json::parse(R"({
    "text": "a b",
    "frames": [{"file": "image.png", "saliency": 0.05},
               {"file": "image.png", "saliency": 0.05}],
    "spans": [{"probability": 0.52498, "centre": 0.75, "width": 0.5},
              {"probability": 0.5, "centre": 0.5, "width": 1}]
  })");
}

TEST(LoadModelTest, MakesAModelThatFindsMoments) {
  const TemporaryFolder folder;
  WriteMomentsPackage(folder.path(), CanaryMomentJson());
  const auto model = LoadModel({.path = folder.path()});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->info().Has("moments"));
  EXPECT_EQ((*model)->info().max_moment_frames, 3);
  EXPECT_EQ((*model)->info().max_moment_tokens, 4);
}

TEST(LoadModelTest, HoldsTheMomentsHeadToTheCanary) {
  for (const auto& [pointer, value, message] :
       {std::tuple("/spans/0/centre", Json(0.7), "moments of \"a b\""),
        std::tuple("/frames/1/saliency", Json(0.1), "moments of \"a b\""),
        std::tuple("/spans/2",
                   Json{{"probability", 0}, {"centre", 0}, {"width", 0}},
                   "gave 2 spans")}) {
    Json moment = CanaryMomentJson();
    moment[Json::json_pointer(pointer)] = value;
    const TemporaryFolder folder;
    WriteMomentsPackage(folder.path(), moment);
    const absl::Status status = LoadModel({.path = folder.path()}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

// Files of tests/data/tokenizers, under the names that `tokenizer` has for
// them. The text tower gives (1, 0) for whatever ids. The canary's ids are
// those that make_golden.py got from the reference implementation for its text.
struct TokenizerCase {
  std::string name;
  Json tokenizer;
  std::vector<std::string> files;
  std::vector<int32_t> ids;
};

constexpr char kCanaryText[] = "A woman in a RED coat, 1990s!";

const TokenizerCase kClipCase = {"clip",
                                 {{"kind", "clip_bpe"},
                                  {"vocabulary", "clip_vocab.json"},
                                  {"merges", "clip_merges.txt"},
                                  {"max_tokens", 77}},
                                 {"clip_vocab.json", "clip_merges.txt"},
                                 {3108, 320, 1786, 828, 320, 1787, 1802, 267,
                                  272, 280, 280, 271, 338, 256, 3109}};
const TokenizerCase kSiglipCase = {
    "siglip",
    {{"kind", "sentencepiece"},
     {"model", "unigram.model"},
     {"lowercase", true},
     {"remove_punctuation", true},
     {"add_bos", false},
     {"add_eos", true},
     {"max_tokens", 64}},
    {"unigram.model"},
    {4, 117, 312, 85, 4, 3, 1155, 126, 378, 353, 6, 1}};

absl::StatusOr<std::shared_ptr<const Model>> LoadWith(
    const TokenizerCase& test_case) {
  constexpr int kVocabulary = 4096;
  const TemporaryFolder folder;
  Json model = TinyModelJson();
  model["text"]["tokenizer"] = test_case.tokenizer;
  Json canary = TinyCanaryJson();
  canary["texts"] = {
      {{"text", kCanaryText}, {"ids", test_case.ids}, {"embedding", {1, 0}}}};
  WriteTinyPackage(folder.path(), model, canary);
  WriteTorchScript(folder.PathOf("image.ts"), kTinyImageTower,
                   {kImageWeight, -0.3F, 0.5F, 0.5F, 0, 0}, 3, 2);
  std::vector<float> rows;
  for (int i = 0; i < kVocabulary; ++i) rows.insert(rows.end(), {1, 0});
  WriteTorchScript(folder.PathOf("text.ts"), kTinyTextTower, rows, kVocabulary,
                   2);
  for (const std::string& file : test_case.files) {
    WriteFile(folder.PathOf(file), *ReadFile("tests/data/tokenizers/" + file));
  }
  return LoadModel({.path = folder.path()});
}

TEST(LoadModelTest, BuildsTheTokenizerThatThePackageNames) {
  for (const TokenizerCase& test_case : {kClipCase, kSiglipCase}) {
    const auto model = LoadWith(test_case);
    ASSERT_TRUE(model.ok()) << test_case.name << ": " << model.status();
    EXPECT_EQ((*model)->info().max_tokens, test_case.tokenizer["max_tokens"]);
    EXPECT_EQ((*model)->EmbedText(kCanaryText)->tokens,
              static_cast<int64_t>(test_case.ids.size()));
  }
}

TEST(LoadModelTest, GivesTheTokenizerItsOptions) {
  for (const char* option : {"lowercase", "remove_punctuation", "add_eos"}) {
    TokenizerCase changed = kSiglipCase;
    changed.tokenizer[option] = false;
    EXPECT_THAT(LoadWith(changed).status().message(),
                HasSubstr("the canary failed: the tokens of"))
        << option;
  }
  TokenizerCase without_bos = kSiglipCase;
  without_bos.tokenizer["add_bos"] = true;
  EXPECT_THAT(LoadWith(without_bos).status().message(),
              HasSubstr("unigram.model: add_bos"));
}

TEST(LoadModelTest, NamesATokenizerFileThatIsNoSuch) {
  TokenizerCase swapped = kClipCase;
  swapped.tokenizer["vocabulary"] = "clip_merges.txt";
  const absl::Status status = LoadWith(swapped).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("clip_merges.txt: vocabulary"));
}

TEST(LoadModelTest, LoadsTheDefaultPackage) {
  const char* cache = std::getenv("QUERN_CACHE");
  ASSERT_NE(cache, nullptr);
  const auto model =
      LoadModel({.path = std::string(cache) + "/models/quern-lite"});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().name, "quern-lite");
  EXPECT_EQ((*model)->info().dimension, 512);
  EXPECT_TRUE((*model)->info().Has("image.dense"));
  EXPECT_TRUE((*model)->EmbedText("a dog in the snow").ok());
}

TEST(LoadModelTest, TakesTheFastestPrecisionThatTheCpuHas) {
  const TemporaryFolder folder;
  WritePackage(folder.path());
  const auto model = LoadModel({.path = folder.path()});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().precision,
            CpuHasBf16() ? Precision::kBf16 : Precision::kFp32);
  EXPECT_EQ((*model)->info().memory_bytes, (6 + 12) * (CpuHasBf16() ? 2 : 4));
}

// What a reduction breaks that fp32 does not; 6 is the type float.
struct BadReduction {
  std::string name;
  std::string body;  // Before the image tower reads its input x.
};

class BadReductionTest : public testing::TestWithParam<BadReduction> {};

TEST_P(BadReductionTest, IsRefusedAndAvoidedByAuto) {
  if (!CpuHasBf16()) GTEST_SKIP() << "this CPU has no bfloat16 arithmetic";
  const TemporaryFolder folder;
  WritePackage(folder.path());
  WriteTorchScript(
      folder.PathOf("image.ts"),
      absl::StrCat("def forward(self, x):\n    ", GetParam().body,
                   "    return torch.matmul(x.mean([2, 3]), self.weight)\n"
                   "def dense(self, x):\n"
                   "    cells = torch.avg_pool2d(x, [4, 4])\n"
                   "    return torch.matmul(cells.permute([0, 2, 3, 1]), "
                   "self.weight)\n"),
      {kImageWeight, -0.3F, 0.5F, 0.5F, 0, 0}, 3, 2);
  const absl::Status status =
      LoadModel({.path = folder.path(), .precision = Precision::kBf16})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("models.precision"));
  const auto model = LoadModel({.path = folder.path()});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().precision, Precision::kFp32);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadReductionTest,
    testing::Values(BadReduction{"Throws", "assert x.dtype == 6\n"},
                    BadReduction{"WrongValues",
                                 "if x.dtype != 6:\n"
                                 "        x = x + torch.ones_like(x) * 0.5\n"},
                    BadReduction{"NotANumber",
                                 "if x.dtype != 6:\n"
                                 "        x = x * float('nan')\n"}),
    [](const auto& info) { return info.param.name; });

struct Mismatch {
  std::string name;
  std::string pointer;
  std::string value;
  std::string message;
};

class CanaryMismatchTest : public testing::TestWithParam<Mismatch> {};

TEST_P(CanaryMismatchTest, IsDataLoss) {
  Json canary = TinyCanaryJson();
  canary[Json::json_pointer(GetParam().pointer)] =
      Json::parse(GetParam().value);
  const TemporaryFolder folder;
  WritePackage(folder.path(), canary);
  const absl::Status status = LoadModel({.path = folder.path()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(folder.path()), HasSubstr(GetParam().message),
                    HasSubstr("scripts/setup")));
}

INSTANTIATE_TEST_SUITE_P(
    All, CanaryMismatchTest,
    testing::Values(Mismatch{"Tokens", "/texts/0/ids", "[2, 5, 4, 3]",
                             "tokens of \"a b\" are 2 4 5 3, expected 2 5 4 3"},
                    Mismatch{"Text", "/texts/0/embedding", "[0.6, 0.7]",
                             "embedding of \"a b\" is off by 0.1"},
                    Mismatch{"Image", "/images/0/embedding", "[0.8, -0.7]",
                             "embedding of \"image.png\" is off by 0.1"}),
    [](const auto& info) { return info.param.name; });

TEST(LoadModelTest, NoticesDamagedWeights) {
  const TemporaryFolder folder;
  WritePackage(folder.path());
  const std::string file = folder.PathOf("image.ts");
  std::string contents = *ReadFile(file);
  std::string weight(sizeof(float), '\0');
  std::memcpy(weight.data(), &kImageWeight, sizeof(float));
  const size_t at = contents.find(weight);
  ASSERT_NE(at, std::string::npos);
  contents[at + 3] = static_cast<char>(contents[at + 3] ^ 0x04);
  WriteFile(file, contents);
  EXPECT_EQ(LoadModel({.path = folder.path()}).status().code(),
            absl::StatusCode::kDataLoss);
}

struct BadFile {
  std::string name;
  std::string file;
  std::string contents;
  absl::StatusCode code;
  std::string message;
};

class BadFileTest : public testing::TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsNamed) {
  const TemporaryFolder folder;
  WritePackage(folder.path());
  WriteFile(folder.PathOf(GetParam().file), GetParam().contents);
  const absl::Status status = LoadModel({.path = folder.path()}).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(folder.path()), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadFileTest,
    testing::Values(BadFile{"Tower", "image.ts", "PK\x03\x04",
                            absl::StatusCode::kDataLoss, "image.ts"},
                    BadFile{"Vocabulary", "vocab.txt", "a\nb\n",
                            absl::StatusCode::kInvalidArgument, "vocab.txt"},
                    BadFile{"CanaryImage", "canary/image.png", "no picture",
                            absl::StatusCode::kDataLoss, "image.png"}),
    [](const auto& info) { return info.param.name; });

TEST(LoadModelTest, NoticesATowerThatThrowsOrGivesOtherShapes) {
  for (const char* body :
       {"return torch.ones([1, 3])", "return torch.full([1, 2], float('nan'))",
        "assert False, 'no luck'\n    return x"}) {
    const TemporaryFolder folder;
    WritePackage(folder.path());
    WriteTorchScript(folder.PathOf("text.ts"),
                     std::string("def forward(self, x, mask):\n    ") + body);
    const absl::Status status = LoadModel({.path = folder.path()}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("canary failed"));
  }
}

TEST(LoadModelTest, KeepsTheCodeOfADeviceThatIsNotThere) {
  const TemporaryFolder folder;
  WritePackage(folder.path());
  EXPECT_EQ(
      LoadModel({.path = folder.path(), .device = "cuda:99"}).status().code(),
      absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quern
