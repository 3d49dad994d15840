#include "engine/model/torch_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/file.h"
#include "tests/contract/encoder_contract.h"
#include "tests/model/package_writer.h"
#include "tests/model/tiny_towers.h"
#include "tests/model/torchscript_writer.h"

namespace quern {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TorchEncoderOptions TinyOptions(const TemporaryFolder& folder) {
  return {.image_file = folder.PathOf("image.ts"),
          .text_file = folder.PathOf("text.ts"),
          .match_file = folder.PathOf("match.ts"),
          .dense_method = "dense",
          .tokens_method = "tokens",
          .dimension = 2,
          .size_multiple = 4,
          .dense_stride = 4};
}

std::shared_ptr<const Encoder> TinyEncoder(const std::string& packed_method) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("image.ts"), kTinyImageTower,
                   {1, 0.5F, -0.5F, 1, 0.25F, -1}, 3, 2);
  WriteTorchScript(folder.PathOf("text.ts"), kTinyTextTower,
                   {0, 1, 1, 9, 2, 8, 3, 7, 4, 6, 5, 5}, 6, 2);
  WriteTorchScript(folder.PathOf("match.ts"), kTinyMatchHead);
  TorchEncoderOptions options = TinyOptions(folder);
  options.packed_method = packed_method;
  auto encoder = TorchEncoder::Create(options);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return encoder.ok() ? *std::move(encoder) : nullptr;
}

std::shared_ptr<const Encoder> TinyEncoder() { return TinyEncoder(""); }

std::shared_ptr<const Encoder> TinyPackingEncoder() {
  return TinyEncoder("packed");
}

std::shared_ptr<const Encoder> LoadDefaultTowers(
    Precision precision, const std::string& packed_method = "packed") {
  const char* cache = std::getenv("QUERN_CACHE");
  const std::string folder =
      std::string(cache == nullptr ? "" : cache) + "/models/quern-lite/";
  auto encoder = TorchEncoder::Create({.image_file = folder + "image.ts",
                                       .text_file = folder + "text.ts",
                                       .dense_method = "dense",
                                       .packed_method = packed_method,
                                       .max_tokens = 128,
                                       .dimension = 512,
                                       .size_multiple = 32,
                                       .dense_stride = 32,
                                       .precision = precision});
  EXPECT_TRUE(encoder.ok()) << encoder.status() << ": run scripts/setup";
  return encoder.ok() ? *std::move(encoder) : nullptr;
}

// Loaded once: it takes half a second.
std::shared_ptr<const Encoder> DefaultTowers() {
  static const auto* const kEncoder =
      new std::shared_ptr<const Encoder>(LoadDefaultTowers(Precision::kFp32));
  return *kEncoder;
}

std::shared_ptr<const Encoder> DefaultTowersInBf16() {
  static const auto* const kEncoder =
      new std::shared_ptr<const Encoder>(LoadDefaultTowers(Precision::kBf16));
  return *kEncoder;
}

INSTANTIATE_TEST_SUITE_P(
    TinyTowers, EncoderContract,
    testing::Values(EncoderContractCase{.encoder = [] { return TinyEncoder(); },
                                        .stride = 4,
                                        .max_token = 5},
                    EncoderContractCase{.encoder = TinyPackingEncoder,
                                        .stride = 4,
                                        .max_token = 5}));

INSTANTIATE_TEST_SUITE_P(DefaultPackage, EncoderContract,
                         testing::Values(EncoderContractCase{
                             .encoder = DefaultTowers,
                             .stride = 32,
                             .max_token = 30'000,
                             .has_match = false,
                             .has_tokens = false}));

// Activations are rounded to 8 bits after each layer, so another order of
// additions moves an embedding's values (of about 0.04) in the second digit.
INSTANTIATE_TEST_SUITE_P(
    DefaultPackageInBf16, EncoderContract,
    testing::ValuesIn(
        CpuHasBf16()
            ? std::vector<EncoderContractCase>{{.encoder = DefaultTowersInBf16,
                                                .stride = 32,
                                                .max_token = 30'000,
                                                .rounding = 0.005F,
                                                .has_match = false,
                                                .has_tokens = false}}
            : std::vector<EncoderContractCase>()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(EncoderContract);

TEST(TorchEncoderTest, GivesTheTowersOutputsNormalised) {
  const std::shared_ptr<const Encoder> encoder = TinyEncoder();
  // Row 5 is (5, 5), row 2 is (2, 8).
  const std::vector<Tokens> texts = {{.ids = {5}}, {.ids = {2, 5}}};
  const absl::StatusOr<Matrix> rows = encoder->EncodeText(texts);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_NEAR(rows->row(0)[0], 0.70711F, 1e-5);
  EXPECT_NEAR(rows->row(1)[0], 7 / std::sqrt(7.0 * 7 + 13 * 13), 1e-5);

  PixelBatch images{.rows = 1, .height = 4, .width = 8};
  images.values.resize(3 * 4 * 8, 1);
  const absl::StatusOr<DenseMaps> maps = encoder->EncodeDense(images);
  ASSERT_TRUE(maps.ok()) << maps.status();
  EXPECT_THAT(maps->values, testing::ElementsAre(0.75F, 0.5F, 0.75F, 0.5F));

  const absl::StatusOr<std::vector<Matrix>> tokens =
      encoder->EncodeTokens(texts);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->at(0).row(0), testing::ElementsAre(10, 10));
  EXPECT_THAT(tokens->at(1).row(0), testing::ElementsAre(4, 16));
  EXPECT_THAT(tokens->at(1).row(1), testing::ElementsAre(10, 10));
}

// What a layer gives beside what it must, worked out from the definition of its
// activation: in fp32 the layer and its activation become one kernel.
struct Fused {
  std::string name;
  std::string layer;  // Of x (float [1, 3, 1, 1]), with self.weight.
  std::function<double(double)> activation;
};

class FusedTest : public testing::TestWithParam<Fused> {};

TEST_P(FusedTest, KeepsTheValues) {
  const std::vector<float> weight = {2, -1, 0.5F, -3, 4, 1};
  const TemporaryFolder folder;
  WriteTorchScript(
      folder.PathOf("image.ts"),
      "def forward(self, x):\n    return " + GetParam().layer + ".view([1, 2])",
      weight, 2, 3);
  const auto encoder = TorchEncoder::Create(
      {.image_file = folder.PathOf("image.ts"), .dimension = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const PixelBatch pixels{
      .rows = 1, .height = 1, .width = 1, .values = {1.5F, -0.25F, 2}};
  const absl::StatusOr<Matrix> rows = (*encoder)->EncodeImages(pixels);
  ASSERT_TRUE(rows.ok()) << rows.status();
  // weight times pixels is (4.25, -3.5).
  const double first = GetParam().activation(4.25);
  const double second = GetParam().activation(-3.5);
  const double norm = std::hypot(first, second);
  EXPECT_NEAR(rows->row(0)[0], first / norm, 1e-5);
  EXPECT_NEAR(rows->row(0)[1], second / norm, 1e-5);
}

constexpr char kConvolution[] =
    "torch.conv2d(x, self.weight.view([2, 3, 1, 1]))";
constexpr char kLinear[] = "torch.linear(x.view([1, 3]), self.weight)";

INSTANTIATE_TEST_SUITE_P(
    All, FusedTest,
    testing::Values(
        Fused{"Convolution", kConvolution, [](double v) { return v; }},
        Fused{"ConvolutionAsTraced",
              "torch._convolution(x, self.weight.view([2, 3, 1, 1]), None, "
              "[1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, "
              "True)",
              [](double v) { return v; }},
        Fused{"ConvolutionRelu", absl::StrCat("torch.relu(", kConvolution, ")"),
              [](double v) { return std::max(v, 0.0); }},
        Fused{"ConvolutionHardtanh",
              absl::StrCat("torch.hardtanh(", kConvolution, ", -0.5, 3.)"),
              [](double v) { return std::clamp(v, -0.5, 3.0); }},
        Fused{"ConvolutionClamp",
              absl::StrCat("torch.clamp(", kConvolution, ", -1, 4)"),
              [](double v) { return std::clamp(v, -1.0, 4.0); }},
        Fused{"ConvolutionHalfClamp",
              absl::StrCat("torch.clamp(", kConvolution, ", -1, None)"),
              [](double v) { return std::max(v, -1.0); }},
        Fused{"ConvolutionSilu", absl::StrCat("torch.silu(", kConvolution, ")"),
              [](double v) { return v / (1 + std::exp(-v)); }},
        Fused{"Linear", kLinear, [](double v) { return v; }},
        Fused{"LinearGelu", absl::StrCat("torch.gelu(", kLinear, ")"),
              [](double v) { return v / 2 * std::erfc(-v / std::sqrt(2)); }},
        Fused{"LinearGeluTanh",
              absl::StrCat("torch.gelu(", kLinear, ", approximate='tanh')"),
              [](double v) {
                return v / 2 *
                       (1 + std::tanh(std::sqrt(2 / M_PI) *
                                      (v + 0.044715 * v * v * v)));
              }},
        // The layer's own value is read as well: nothing may be fused.
        Fused{"LinearReadTwice",
              absl::StrCat("(torch.relu(", kLinear, ") + ", kLinear, ")"),
              [](double v) { return std::max(v, 0.0) + v; }}),
    [](const auto& info) { return info.param.name; });

double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  double product = 0;  // Both have unit length.
  for (size_t i = 0; i < a.size(); ++i) product += double{a[i]} * b[i];
  return product;
}

TEST(TorchEncoderTest, Bf16StaysNearFp32InHalfTheMemory) {
  if (!CpuHasBf16()) GTEST_SKIP() << "this CPU has no bfloat16 arithmetic";
  const std::vector<Tokens> texts = {{.ids = {101, 1037, 3899, 102}},
                                     {.ids = {101, 2417, 102}}};
  const Matrix exact = *DefaultTowers()->EncodeText(texts);
  const Matrix reduced = *DefaultTowersInBf16()->EncodeText(texts);
  PixelBatch image{.rows = 1, .height = 64, .width = 64};
  for (int i = 0; i < 3 * 64 * 64; ++i) {
    image.values.push_back(std::sin(static_cast<float>(i) / 100));
  }
  EXPECT_GT(Cosine(exact.row(0), reduced.row(0)), 0.999);
  EXPECT_GT(Cosine(exact.row(1), reduced.row(1)), 0.999);
  EXPECT_GT(Cosine(DefaultTowers()->EncodeImages(image)->row(0),
                   DefaultTowersInBf16()->EncodeImages(image)->row(0)),
            0.97);
}

// Of every length up to several passes' worth, so that texts end and begin
// everywhere in a pass.
TEST(TorchEncoderTest, PackedTextsAreThoseOfPaddedOnes) {
  const std::shared_ptr<const Encoder> padded =
      LoadDefaultTowers(Precision::kFp32, "");
  std::vector<Tokens> texts;
  for (int32_t length = 2; length <= 60; ++length) {
    Tokens& text = texts.emplace_back();
    for (int32_t i = 0; i < length; ++i) {
      text.ids.push_back(1000 + (31 * length + 7 * i) % 20'000);
    }
  }
  const Matrix expected = *padded->EncodeText(texts);
  const Matrix packed = *DefaultTowers()->EncodeText(texts);
  for (int64_t row = 0; row < expected.rows(); ++row) {
    EXPECT_THAT(packed.row(row), testing::Pointwise(testing::FloatNear(2e-5F),
                                                    expected.row(row)))
        << row;
  }
}

// Towers that can tell: they give the values of the pass that a row was in.
constexpr char kCountingTower[] = R"(
def forward(self, ids, mask):
    one = torch.ones([ids.size(0), 1])
    return torch.cat([one, one * ids.size(0) * ids.size(1)], 1)

def packed(self, ids, positions, segments, texts: int):
    one = torch.ones([texts, 1])
    return torch.cat([one, one * ids.size(0)], 1)
)";

std::vector<double> ValuesPerPass(const Encoder& encoder,
                                  const std::vector<int64_t>& lengths) {
  std::vector<Tokens> texts;
  for (const int64_t length : lengths) {
    texts.push_back({.ids = std::vector<int32_t>(length, 1)});
  }
  const Matrix rows = *encoder.EncodeText(texts);
  std::vector<double> values;
  for (int64_t i = 0; i < rows.rows(); ++i) {
    values.push_back(std::round(rows.row(i)[1] / rows.row(i)[0]));
  }
  return values;
}

TEST(TorchEncoderTest, CutsBatchesAtTheRowsGiven) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"), kCountingTower);
  const auto encoder = TorchEncoder::Create(
      {.text_file = folder.PathOf("text.ts"), .dimension = 2, .text_rows = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_EQ((*encoder)->tuning().text_rows, 2);
  // By rows, and by the tokens of two captions of 16.
  EXPECT_THAT(ValuesPerPass(**encoder, {5, 5, 5}),
              testing::ElementsAre(10, 10, 5));
  EXPECT_THAT(ValuesPerPass(**encoder, {40, 16, 16, 17}),
              testing::ElementsAre(40, 32, 32, 17));
}

TEST(TorchEncoderTest, PadsToFewShapesWithinWhatTheTowerReads) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"), kCountingTower);
  const auto encoder =
      TorchEncoder::Create({.text_file = folder.PathOf("text.ts"),
                            .max_tokens = 35,
                            .dimension = 2,
                            .text_rows = 32});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_THAT(ValuesPerPass(**encoder, {15}), testing::ElementsAre(15));
  EXPECT_THAT(ValuesPerPass(**encoder, {17}), testing::ElementsAre(18));
  EXPECT_THAT(ValuesPerPass(**encoder, {33}), testing::ElementsAre(35));
  // 17 rows become 18.
  EXPECT_THAT(ValuesPerPass(**encoder, std::vector<int64_t>(17, 3)),
              testing::Each(18 * 3));
}

TEST(TorchEncoderTest, PacksToFewShapes) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"), kCountingTower);
  const auto encoder =
      TorchEncoder::Create({.text_file = folder.PathOf("text.ts"),
                            .packed_method = "packed",
                            .dimension = 2,
                            .text_rows = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_THAT(ValuesPerPass(**encoder, {3, 5, 1}),
              testing::ElementsAre(9, 9, 9));
  EXPECT_THAT(ValuesPerPass(**encoder, {16, 1}), testing::ElementsAre(18, 18));
  EXPECT_THAT(ValuesPerPass(**encoder, {20, 13, 30}),
              testing::ElementsAre(36, 36, 30));
}

TEST(TorchEncoderTest, TunesTheRowsLeftOpenWithinBounds) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("image.ts"), kTinyImageTower,
                   {1, 0.5F, -0.5F, 1, 0.25F, -1}, 3, 2);
  WriteTorchScript(folder.PathOf("text.ts"), kTinyTextTower,
                   {0, 1, 1, 9, 2, 8, 3, 7, 4, 6, 5, 5}, 6, 2);
  TorchEncoderOptions options = TinyOptions(folder);
  options.match_file.clear();
  options.image_rows = 3;
  const auto encoder = TorchEncoder::Create(options);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  (*encoder)->Tune(4, 4, {.ids = {2, 5}});
  const EncoderTuning tuning = (*encoder)->tuning();
  EXPECT_EQ(tuning.image_rows, 3);
  EXPECT_EQ(tuning.image_row, absl::ZeroDuration());
  EXPECT_GE(tuning.text_rows, 1);
  EXPECT_LE(tuning.text_rows, 32);
  EXPECT_GT(tuning.text_row, absl::ZeroDuration());
}

// Only the canary says whether a model is fit.
TEST(TorchEncoderTest, TuningStopsAtARowCountThatATowerDoesNotTake) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"),
                   "def forward(self, ids, mask):\n"
                   "    assert ids.size(0) == 1\n"
                   "    return torch.ones([1, 2])");
  const auto encoder = TorchEncoder::Create(
      {.text_file = folder.PathOf("text.ts"), .dimension = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  (*encoder)->Tune(1, 1, {.ids = {1}});
  EXPECT_EQ((*encoder)->tuning().text_rows, 1);
}

TEST(TorchEncoderTest, RefusesAPrecisionThatIsNone) {
  EXPECT_EQ(
      TorchEncoder::Create({.dimension = 2, .precision = Precision::kAuto})
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
  if (CpuHasBf16()) return;
  const absl::Status status =
      TorchEncoder::Create({.dimension = 2, .precision = Precision::kBf16})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("models.precision"));
}

TEST(TorchEncoderTest, GivesTheHeadsScoreForEachPair) {
  const std::shared_ptr<const Encoder> encoder = TinyEncoder();
  PixelBatch images{.rows = 2, .height = 4, .width = 4};
  images.values.resize(3 * 4 * 4, 0.25F);
  images.values.resize(2 * 3 * 4 * 4, -1);
  const std::vector<Tokens> texts = {{.ids = {5}}, {.ids = {2, 3}}};
  const absl::StatusOr<std::vector<float>> scores =
      encoder->Match(images, texts);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_THAT(*scores, testing::ElementsAre(5.25F, 4));
}

// Two frames, of any length, and a text of two equal tokens.
constexpr float kFrames[] = {1, 0, 0, 2};
constexpr float kTokens[] = {3, 4, 3, 4};
constexpr MatrixView kVideo = {.data = kFrames, .rows = 2, .columns = 2};
constexpr MatrixView kText = {.data = kTokens, .rows = 2, .columns = 2};

absl::StatusOr<std::vector<MomentPrediction>> PredictWith(
    const std::string& head, absl::Span<const MatrixView> texts,
    const MatrixView& video) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("moments.ts"), head);
  const auto encoder = TorchEncoder::Create(
      {.moments_file = folder.PathOf("moments.ts"), .dimension = 2});
  if (!encoder.ok()) return encoder.status();
  return (*encoder)->PredictMoments(texts, video);
}

TEST(TorchEncoderTest, GivesTheMomentsHeadsSpans) {
  const MatrixView other = {.data = kFrames, .rows = 1, .columns = 2};
  const auto predictions =
      PredictWith(kTinyMomentsHead, {kText, other}, kVideo);
  ASSERT_TRUE(predictions.ok()) << predictions.status();
  ASSERT_EQ(predictions->size(), 2U);
  const MomentPrediction& first = predictions->front();
  EXPECT_THAT(first.saliency,
              testing::ElementsAre(testing::FloatNear(0.6F, 1e-6F),
                                   testing::FloatNear(0.8F, 1e-6F)));
  ASSERT_EQ(first.spans.size(), 2U);
  // The second of two frames; its logits are 0.8 and -0.8.
  EXPECT_NEAR(first.spans[0].centre, 0.75, 1e-6);
  EXPECT_NEAR(first.spans[0].width, 0.5, 1e-6);
  EXPECT_NEAR(first.spans[0].probability, 0.83202, 1e-5);
  EXPECT_NEAR(first.spans[1].probability, 0.5, 1e-6);
  EXPECT_NEAR(predictions->back().saliency[0], 1, 1e-6);
}

TEST(TorchEncoderTest, RefusesMomentsOfOtherSizes) {
  EXPECT_TRUE(PredictWith(kTinyMomentsHead, {}, kVideo)->empty());
  for (const auto& [text, video] :
       {std::pair(kText, MatrixView{.data = kFrames, .rows = 1, .columns = 4}),
        std::pair(kText, MatrixView{.columns = 2}),
        std::pair(MatrixView{.columns = 2}, kVideo),
        std::pair(MatrixView{.data = kTokens, .rows = 4, .columns = 1},
                  kVideo)}) {
    EXPECT_EQ(PredictWith(kTinyMomentsHead, {text}, video).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(TorchEncoderTest, ABadMomentsHeadEndsInAnInternalError) {
  for (const auto& [body, message] :
       {std::pair("return text", "expected a tuple"),
        std::pair("return text, mask", "expected a tuple"),
        std::pair("return text[0], video, mask", "expected a tuple"),
        std::pair("return video, text, mask", "expected [1, 2, 2]"),
        std::pair("return text, text, mask[:, :1]", "expected [1, 2]"),
        std::pair("return text, text / 0, mask", "finite"),
        std::pair("assert False, 'out of luck'\n    return text, text, mask",
                  "out of luck")}) {
    const absl::Status status =
        PredictWith(
            absl::StrCat("def forward(self, text, mask, video):\n    ", body),
            {kText}, kVideo)
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << body;
    EXPECT_THAT(status.message(), HasSubstr(message)) << body;
  }
}

TEST(TorchEncoderTest, RefusesTowersThatItDoesNotHave) {
  const auto encoder = TorchEncoder::Create({.dimension = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  PixelBatch images{.rows = 1, .height = 1, .width = 1, .values = {1, 2, 3}};
  const Tokens text{.ids = {1}};
  EXPECT_EQ((*encoder)->EncodeImages(images).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->EncodeDense(images).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->EncodeText({&text, 1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->Match(images, {&text, 1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->EncodeTokens({&text, 1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->PredictMoments({kText}, kVideo).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

struct BadTower {
  std::string name;
  std::string body;  // Of forward() and dense().
  std::string message;
};

class BadTowerTest : public testing::TestWithParam<BadTower> {};

TEST_P(BadTowerTest, EndsInAnInternalError) {
  const TemporaryFolder folder;
  const std::string& body = GetParam().body;
  WriteTorchScript(folder.PathOf("image.ts"),
                   "def forward(self, x):\n    " + body +
                       "\ndef dense(self, x):\n    " + body);
  WriteTorchScript(folder.PathOf("text.ts"),
                   "def forward(self, x, mask):\n    " + body +
                       "\ndef tokens(self, x, mask):\n    " + body);
  WriteTorchScript(folder.PathOf("match.ts"),
                   "def forward(self, x, ids, mask):\n    " + body);
  const auto encoder = TorchEncoder::Create(TinyOptions(folder));
  ASSERT_TRUE(encoder.ok()) << encoder.status();

  PixelBatch images{.rows = 1, .height = 4, .width = 4};
  images.values.resize(3 * 4 * 4, 1);
  const Tokens text{.ids = {1}};
  for (const absl::Status& status :
       {(*encoder)->EncodeText({&text, 1}).status(),
        (*encoder)->EncodeImages(images).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
  }
  EXPECT_EQ((*encoder)->Match(images, {&text, 1}).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ((*encoder)->EncodeDense(images).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ((*encoder)->EncodeTokens({&text, 1}).status().code(),
            absl::StatusCode::kInternal);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadTowerTest,
    testing::Values(
        BadTower{"Throws", "assert x.size(0) > 5, 'out of luck'\n    return x",
                 "out of luck"},
        BadTower{"NotANumber", "return torch.full([1, 2], float('nan'))",
                 "finite"},
        BadTower{"WrongShape", "return torch.ones([1, 7])",
                 "shape [1, 7]: expected [1, 2]"},
        BadTower{"NoTensor", "return 3", "not a tensor"}),
    [](const auto& info) { return info.param.name; });

TEST(TorchEncoderTest, RejectsAnEmbeddingOfLengthZero) {
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"),
                   "def forward(self, ids, mask):\n"
                   "    return torch.zeros([ids.size(0), 2])");
  const auto encoder = TorchEncoder::Create(
      {.text_file = folder.PathOf("text.ts"), .dimension = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const Tokens text{.ids = {1}};
  EXPECT_EQ((*encoder)->EncodeText({&text, 1}).status().code(),
            absl::StatusCode::kInternal);
}

TEST(TorchEncoderTest, SurvivesATowerThatThrowsAtItsHundredthCall) {
  constexpr int kGoodCalls = 99;
  const TemporaryFolder folder;
  WriteTorchScript(folder.PathOf("text.ts"),
                   "def forward(self, ids, mask):\n"
                   "    self.weight += 1\n"
                   "    assert int(self.weight[0][0]) != 100, 'call 100'\n"
                   "    return torch.ones([ids.size(0), 2])");
  const auto encoder = TorchEncoder::Create(
      {.text_file = folder.PathOf("text.ts"), .dimension = 2});
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const Tokens text{.ids = {1}};
  for (int call = 0; call < kGoodCalls; ++call) {
    ASSERT_TRUE((*encoder)->EncodeText({&text, 1}).ok()) << call;
  }
  const absl::Status status = (*encoder)->EncodeText({&text, 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("call 100"));
  EXPECT_TRUE((*encoder)->EncodeText({&text, 1}).ok());
}

TEST(TorchEncoderTest, SurvivesATokenOutsideOfTheVocabulary) {
  const std::shared_ptr<const Encoder> encoder = TinyEncoder();
  const Tokens bad{.ids = {6}};
  const Tokens good{.ids = {5}};
  EXPECT_EQ(encoder->EncodeText({&bad, 1}).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(encoder->EncodeText({&good, 1}).ok());
}

TEST(TorchEncoderTest, NamesAFileThatIsNoModule) {
  const TemporaryFolder folder;
  const std::string file = folder.PathOf("text.ts");
  WriteTorchScript(file, kTinyTextTower, {1, 2}, 1, 2);
  const std::string whole = *ReadFile(file);
  for (const std::string& contents :
       {std::string(), std::string("not a module"),
        whole.substr(0, whole.size() / 2)}) {
    WriteFile(file, contents);
    const absl::Status status =
        TorchEncoder::Create({.text_file = file, .dimension = 2}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(file), HasSubstr("scripts/setup")));
  }
}

TEST(TorchEncoderTest, NamesAMethodThatIsMissing) {
  const TemporaryFolder folder;
  const std::string file = folder.PathOf("text.ts");
  WriteTorchScript(file, kTinyTextTower);
  const absl::Status status =
      TorchEncoder::Create(
          {.text_file = file, .text_method = "encode", .dimension = 2})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("\"encode\""));
}

TEST(TorchEncoderTest, RejectsDevicesThatAreNotThere) {
  for (const char* device : {"tpu", "", "cpu:x", "meta"}) {
    const absl::Status status =
        TorchEncoder::Create({.dimension = 2, .device = device}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << device;
    EXPECT_THAT(status.message(), HasSubstr("cuda:N"));
  }
  const absl::Status status =
      TorchEncoder::Create({.dimension = 2, .device = "cuda:99"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("CUDA device"));
}

}  // namespace
}  // namespace quern
