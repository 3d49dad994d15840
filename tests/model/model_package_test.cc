#include "engine/model/model_package.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/file.h"
#include "tests/model/package_writer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(ModelPackageTest, ReadsEverything) {
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path());
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  const ModelSpec& spec = package->spec;
  EXPECT_EQ(spec.name, "tiny");
  EXPECT_EQ(spec.version, "1.2");
  EXPECT_EQ(spec.dimension, 2);
  EXPECT_THAT(spec.capabilities,
              ElementsAre("image.global", "image.dense", "text.global"));
  ASSERT_TRUE(spec.image.has_value() && spec.text.has_value());
  EXPECT_EQ(spec.image->dense_method, "dense");
  EXPECT_EQ(spec.image->dense_stride, 4);
  EXPECT_EQ(spec.image->preprocessing.mode, ResizeMode::kSquash);
  EXPECT_EQ(spec.image->preprocessing.filter, ResizeFilter::kBilinear);
  EXPECT_THAT(spec.image->preprocessing.pad_rgb, ElementsAre(1, 2, 3));
  EXPECT_THAT(spec.image->preprocessing.mean, ElementsAre(100, 100, 100));
  EXPECT_THAT(spec.image->preprocessing.std, ElementsAre(50, 50, 50));
  const auto* tokenizer = std::get_if<WordPieceSpec>(&spec.text->tokenizer);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_TRUE(tokenizer->lowercase);
  EXPECT_FALSE(tokenizer->strip_accents);
  EXPECT_EQ(tokenizer->max_tokens, 8);
  ASSERT_EQ(package->canary.texts.size(), 1U);
  EXPECT_THAT(package->canary.texts[0].ids, ElementsAre(2, 4, 5, 3));
  EXPECT_THAT(package->canary.texts[0].embedding, ElementsAre(0.6F, 0.8F));
  EXPECT_EQ(package->CanaryPathOf(package->canary.images[0].file),
            folder.PathOf("canary/image.png"));
}

TEST(ModelPackageTest, ReadsHowThingsAreFound) {
  Json model = TinyModelJson();
  model["image"]["dense_side"] = 32;
  model["calibration"]["regions"] = {
      {"bias", -2.5}, {"peak", 8},     {"mean", -1},      {"deviation", 0.5},
      {"best", 14.5}, {"inside", -20}, {"pooled", 10.25}, {"threshold", 0.25}};
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path(), model);
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_EQ(package->spec.image->dense_side, 32);
  ASSERT_TRUE(package->spec.regions.has_value());
  EXPECT_EQ(package->spec.regions->bias, -2.5);
  EXPECT_EQ(package->spec.regions->peak, 8);
  EXPECT_EQ(package->spec.regions->mean, -1);
  EXPECT_EQ(package->spec.regions->deviation, 0.5);
  EXPECT_EQ(package->spec.regions->best, 14.5);
  EXPECT_EQ(package->spec.regions->inside, -20);
  EXPECT_EQ(package->spec.regions->pooled, 10.25);
  EXPECT_EQ(package->spec.regions->threshold, 0.25);
  EXPECT_FALSE(package->spec.segments.has_value());
}

TEST(ModelPackageTest, WeightsThatACalibrationDoesNotNameAreNothing) {
  Json model = TinyModelJson();
  model["calibration"]["segments"] = {{"bias", -1},  {"peak", 2},
                                      {"mean", 3},   {"deviation", 4},
                                      {"pooled", 5}, {"threshold", 0.5}};
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path(), model);
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  ASSERT_TRUE(package->spec.segments.has_value());
  EXPECT_EQ(package->spec.segments->best, 0);
  EXPECT_EQ(package->spec.segments->inside, 0);
  EXPECT_EQ(package->spec.segments->pooled, 5);
}

// A package with another tokeniser; its files hold what model_package never
// looks at.
void WriteWithTokenizer(const std::string& folder, const Json& tokenizer,
                        const std::vector<std::string>& files) {
  Json model = TinyModelJson();
  model["text"]["tokenizer"] = tokenizer;
  WriteTinyPackage(folder, model);
  for (const std::string& file : files) WriteFile(folder + "/" + file, file);
}

TEST(ModelPackageTest, ReadsAClipTokenizer) {
  const TemporaryFolder folder;
  WriteWithTokenizer(folder.path(),
                     {{"kind", "clip_bpe"},
                      {"vocabulary", "v.json"},
                      {"merges", "m.txt"},
                      {"max_tokens", 77}},
                     {"v.json", "m.txt"});
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  const TokenizerSpec& spec = package->spec.text->tokenizer;
  ASSERT_TRUE(std::holds_alternative<ClipBpeSpec>(spec));
  EXPECT_EQ(MaxTokensOf(spec), 77);
  EXPECT_THAT(FilesOf(spec), ElementsAre("v.json", "m.txt"));
}

TEST(ModelPackageTest, ReadsASentencePieceTokenizer) {
  const TemporaryFolder folder;
  WriteWithTokenizer(folder.path(),
                     {{"kind", "sentencepiece"},
                      {"model", "s.model"},
                      {"lowercase", true},
                      {"remove_punctuation", false},
                      {"add_bos", false},
                      {"add_eos", true},
                      {"max_tokens", 64}},
                     {"s.model"});
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  const TokenizerSpec& spec = package->spec.text->tokenizer;
  const auto* sentencepiece = std::get_if<SentencePieceSpec>(&spec);
  ASSERT_NE(sentencepiece, nullptr);
  EXPECT_TRUE(sentencepiece->lowercase);
  EXPECT_FALSE(sentencepiece->remove_punctuation);
  EXPECT_FALSE(sentencepiece->add_bos);
  EXPECT_TRUE(sentencepiece->add_eos);
  EXPECT_EQ(MaxTokensOf(spec), 64);
  EXPECT_THAT(FilesOf(spec), ElementsAre("s.model"));
}

TEST(ModelPackageTest, EveryFileOfATokenizerIsPartOfTheFingerprint) {
  const TemporaryFolder folder;
  WriteWithTokenizer(folder.path(),
                     {{"kind", "clip_bpe"},
                      {"vocabulary", "v.json"},
                      {"merges", "m.txt"},
                      {"max_tokens", 77}},
                     {"v.json", "m.txt"});
  const std::string before = ReadModelPackage(folder.path())->fingerprint;
  for (const char* file : {"v.json", "m.txt"}) {
    WriteFile(folder.PathOf(file), "changed");
    EXPECT_NE(ReadModelPackage(folder.path())->fingerprint, before) << file;
    WriteFile(folder.PathOf(file), file);
  }
  fs::remove(folder.PathOf("m.txt"));
  EXPECT_THAT(ReadModelPackage(folder.path()).status().message(),
              HasSubstr("file \"m.txt\" is missing"));
}

TEST(ModelPackageTest, SaysHowToGetAPackageThatIsNotThere) {
  const absl::Status status = ReadModelPackage("/no/such/folder").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("\"/no/such/folder\""),
                    HasSubstr("scripts/setup"), HasSubstr("models.path")));
}

// A change to model.json (or to the canary) that breaks one rule.
struct Mistake {
  std::string name;
  std::string pointer;  // JSON pointer of what is set.
  std::string value;    // JSON; empty removes it.
  std::vector<std::string> message;
};

void Apply(const Mistake& mistake, Json& json) {
  const Json::json_pointer pointer(mistake.pointer);
  if (mistake.value.empty()) {
    json.at(pointer.parent_pointer()).erase(pointer.back());
  } else {
    json[pointer] = Json::parse(mistake.value);
  }
}

class ModelJsonMistake : public testing::TestWithParam<Mistake> {};

TEST_P(ModelJsonMistake, IsNamedWithItsPath) {
  Json model = TinyModelJson();
  Apply(GetParam(), model);
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path(), model);
  const absl::Status status = ReadModelPackage(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("model.json"));
  for (const std::string& part : GetParam().message) {
    EXPECT_THAT(status.message(), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ModelJsonMistake,
    testing::Values(
        Mistake{"UnknownKey",
                "/image/colour",
                "1",
                {"image.\"colour\"", "preprocess"}},
        Mistake{"DenseSideOfNoMultiple",
                "/image/dense_side",
                "33",
                {"image.dense_side", "33", "multiple of size_multiple"}},
        Mistake{"DenseSideOfNothing",
                "/image/dense_side",
                "0",
                {"image.dense_side", "1 to 2048"}},
        Mistake{"CalibrationOfHalf",
                "/calibration/segments",
                R"({"bias": 1})",
                {"calibration.segments.peak is missing"}},
        Mistake{"CalibrationBeyondAnyFloat",
                "/calibration/segments",
                R"({"bias": 1, "peak": 1, "mean": 1, "deviation": 1,
                    "best": 1e39, "threshold": 0.5})",
                {"calibration.segments.best is", "finite number"}},
        Mistake{"CalibrationOfWords",
                "/calibration/regions",
                R"({"bias": 1, "peak": 1, "mean": 1, "deviation": 1,
                    "pooled": "1", "threshold": 0.5})",
                {"calibration.regions.pooled is", "finite number"}},
        Mistake{"CalibrationOfAnUnknownFeature",
                "/calibration/regions",
                R"({"bias": 1, "peak": 1, "mean": 1, "deviation": 1,
                    "worst": 1, "threshold": 0.5})",
                {"calibration.regions.\"worst\"", "pooled"}},
        Mistake{"UnknownKeyAtTheTop", "/nmae", "1", {"\"nmae\"", "name"}},
        Mistake{"UnknownKeyDeepDown",
                "/text/tokenizer/lower",
                "1",
                {"text.tokenizer.\"lower\""}},
        Mistake{"OtherFormat", "/format_version", "2", {"format_version is"}},
        Mistake{"MissingName", "/name", "", {"name is missing"}},
        Mistake{"EmptyName", "/name", "\"\"", {"name is"}},
        Mistake{"NameWithSlash", "/name", "\"a/b\"", {"a-z"}},
        Mistake{"NumberAsString",
                "/embedding/dimension",
                "\"2\"",
                {"embedding.dimension is", "whole number"}},
        Mistake{"Fraction",
                "/embedding/dimension",
                "2.5",
                {"embedding.dimension is \"2.5\""}},
        Mistake{"NoDimension",
                "/embedding/dimension",
                "0",
                {"embedding.dimension is \"0\"", "1 to 65536"}},
        Mistake{"WrapsAround",
                "/embedding/dimension",
                "18446744073709551615",
                {"embedding.dimension"}},
        Mistake{"OtherMetric",
                "/embedding/metric",
                "\"l2\"",
                {"embedding.metric is", "cosine"}},
        Mistake{"ObjectAsArray",
                "/embedding",
                "[]",
                {"embedding is \"[]\"", "object"}},
        Mistake{"UnknownCapability",
                "/capabilities/1",
                "\"image.smell\"",
                {"capabilities[1] is", "image.dense"}},
        Mistake{
            "CapabilityWithoutTower", "/text", "", {"text.global", "no tower"}},
        Mistake{
            "CapabilityWithoutMethod", "/image/methods/dense", "", {"dense"}},
        Mistake{"HugePicture",
                "/image/preprocess/width",
                "100000",
                {"image.preprocess.width is \"100000\"", "4096"}},
        Mistake{"SizeThatDoesNotDivide",
                "/image/preprocess/height",
                "6",
                {"image.size_multiple is \"4\"", "divide"}},
        Mistake{"UnknownResize",
                "/image/preprocess/resize",
                "\"stretch\"",
                {"image.preprocess.resize is", "letterbox, squash"}},
        Mistake{"UnknownFilter",
                "/image/preprocess/filter",
                "3",
                {"image.preprocess.filter is \"3\""}},
        Mistake{"NoAntialias",
                "/image/preprocess/antialias",
                "false",
                {"image.preprocess.antialias is \"false\""}},
        Mistake{"TwoChannels",
                "/image/preprocess/mean",
                "[1, 2]",
                {"image.preprocess.mean has 2 values"}},
        Mistake{"MeanInUnits",
                "/image/preprocess/mean/1",
                "-1",
                {"image.preprocess.mean[1] is \"-1\"", "0 to 255"}},
        Mistake{"StdOfZero",
                "/image/preprocess/std/2",
                "0",
                {"image.preprocess.std[2] is \"0\""}},
        Mistake{"TextAsNumber",
                "/image/preprocess/std/0",
                "\"x\"",
                {"image.preprocess.std[0] is"}},
        Mistake{
            "UnknownTokenizer",
            "/text/tokenizer/kind",
            "\"bpe\"",
            {"text.tokenizer.kind is", "wordpiece, clip_bpe, sentencepiece"}},
        Mistake{"KeyOfAnotherTokenizer",
                "/text/tokenizer/merges",
                "\"merges.txt\"",
                {"text.tokenizer.\"merges\" is not a known key"}},
        Mistake{"KindWithoutItsFiles",
                "/text/tokenizer/kind",
                "\"clip_bpe\"",
                {"text.tokenizer.merges is missing"}},
        Mistake{"KindWithoutItsModel",
                "/text/tokenizer/kind",
                "\"sentencepiece\"",
                {"text.tokenizer.model is missing"}},
        Mistake{"BooleanAsNumber",
                "/text/tokenizer/lowercase",
                "1",
                {"text.tokenizer.lowercase is \"1\"", "true or false"}},
        Mistake{"NoRoomForText",
                "/text/tokenizer/max_tokens",
                "2",
                {"text.tokenizer.max_tokens is \"2\"", "3 to"}},
        Mistake{"MatchWithoutHead",
                "/capabilities/1",
                "\"match\"",
                {"capabilities has \"match\""}},
        Mistake{"MatchWithoutMethod",
                "/match",
                R"({"file": "match.ts", "methods": {}})",
                {"match.methods.score is missing"}},
        Mistake{"MomentsWithoutHead",
                "/capabilities/1",
                "\"moments\"",
                {"capabilities has \"moments\""}},
        Mistake{"MomentsWithoutTokens",
                "/moments",
                R"({"file": "moments.ts", "methods": {"predict": "forward"},
                    "max_frames": 75, "max_tokens": 32})",
                {"moments is", "text.methods.tokens"}},
        Mistake{"MomentsOfNoFrames",
                "/moments",
                R"({"file": "moments.ts", "methods": {"predict": "forward"},
                    "max_frames": 0, "max_tokens": 32})",
                {"moments.max_frames is \"0\""}},
        Mistake{"NoCanary", "/canary", "", {"canary is missing"}},
        Mistake{"Nothing", "", "null", {"must be an object"}}),
    [](const auto& info) { return info.param.name; });

class CanaryMistake : public testing::TestWithParam<Mistake> {};

TEST_P(CanaryMistake, IsNamedWithItsPath) {
  Json canary = TinyCanaryJson();
  Apply(GetParam(), canary);
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path(), TinyModelJson(), canary);
  const absl::Status status = ReadModelPackage(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("canary/canary.json"));
  for (const std::string& part : GetParam().message) {
    EXPECT_THAT(status.message(), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, CanaryMistake,
    testing::Values(
        Mistake{"OtherDimension",
                "/texts/0/embedding",
                "[1]",
                {"texts[0].embedding has 1 values", "2"}},
        Mistake{"NotANumber",
                "/images/0/embedding/1",
                "null",
                {"images[0].embedding[1] is \"null\""}},
        Mistake{"NegativeId",
                "/texts/0/ids/2",
                "-1",
                {"texts[0].ids[2] is \"-1\""}},
        Mistake{"NothingTolerated", "/tolerance", "0", {"tolerance is"}},
        Mistake{"EverythingTolerated", "/tolerance", "2", {"tolerance is"}},
        Mistake{"NoTexts", "/texts", "", {"texts is missing", "text tower"}},
        Mistake{"NoImages", "/images", "", {"images is missing"}},
        Mistake{"CellOutside",
                "/images/0/cells",
                R"([{"row": -1, "column": 0, "embedding": [1, 0]}])",
                {"images[0].cells[0].row is \"-1\""}},
        Mistake{"ScoreOfNothing",
                "/matches",
                R"([{"text": "a", "file": "image.png", "score": null}])",
                {"matches[0].score is \"null\"", "finite"}},
        Mistake{"UnknownKey", "/video", "[]", {"\"video\""}}),
    [](const auto& info) { return info.param.name; });

// With a head that reads pictures and texts together.
void WriteMatchingPackage(const TemporaryFolder& folder) {
  Json model = TinyModelJson();
  model["match"] = {{"file", "match.ts"}, {"methods", {{"score", "rate"}}}};
  Json canary = TinyCanaryJson();
  canary["matches"] = {{{"text", "a"}, {"file", "other.png"}, {"score", -2.5}}};
  WriteTinyPackage(folder.path(), model, canary);
  WriteFile(folder.PathOf("match.ts"), "no head");
  WriteFile(folder.PathOf("canary/other.png"), OrangePng());
}

TEST(ModelPackageTest, ReadsAMatchHead) {
  const TemporaryFolder folder;
  WriteMatchingPackage(folder);
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  ASSERT_TRUE(package->spec.match.has_value());
  EXPECT_EQ(package->spec.match->file, "match.ts");
  EXPECT_EQ(package->spec.match->score_method, "rate");
  ASSERT_EQ(package->canary.matches.size(), 1U);
  EXPECT_EQ(package->canary.matches[0].score, -2.5F);

  for (const char* file : {"match.ts", "canary/other.png"}) {
    const std::string contents = *ReadFile(folder.PathOf(file));
    WriteFile(folder.PathOf(file), contents + " ");
    EXPECT_NE(ReadModelPackage(folder.path())->fingerprint,
              package->fingerprint);
    fs::remove(folder.PathOf(file));
    EXPECT_EQ(ReadModelPackage(folder.path()).status().code(),
              absl::StatusCode::kFailedPrecondition);
    WriteFile(folder.PathOf(file), contents);
  }
}

TEST(ModelPackageTest, RefusesAMatchHeadWithoutTowersOrCanary) {
  const TemporaryFolder folder;
  WriteMatchingPackage(folder);
  WriteFile(folder.PathOf("canary/canary.json"), TinyCanaryJson().dump());
  EXPECT_THAT(ReadModelPackage(folder.path()).status().message(),
              HasSubstr("matches is missing"));
  Json model = Json::parse(*ReadFile(folder.PathOf("model.json")));
  model.erase("text");
  WriteFile(folder.PathOf("model.json"), model.dump());
  EXPECT_THAT(ReadModelPackage(folder.path()).status().message(),
              HasSubstr("needs the sections image and text"));
}

TEST(ModelPackageTest, ReadsAMomentsHead) {
  Json model = TinyModelJson();
  model["text"]["methods"]["tokens"] = "tokens";
  model["capabilities"].insert(model["capabilities"].end(),
                               {"text.tokens", "moments"});
  model["moments"] = {{"file", "moments.ts"},
                      {"methods", {{"predict", "find"}}},
                      {"max_frames", 75},
                      {"max_tokens", 32}};
  Json canary = TinyCanaryJson();
  canary["moments"] = {
      {{"text", "a"},
       {"frames", {{{"file", "other.png"}, {"saliency", 0.5}}}},
       {"spans", {{{"probability", 1}, {"centre", 0.25}, {"width", 0.5}}}}}};
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path(), model, canary);
  WriteFile(folder.PathOf("moments.ts"), "no head");
  WriteFile(folder.PathOf("canary/other.png"), OrangePng());
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  ASSERT_TRUE(package->spec.moments.has_value());
  EXPECT_EQ(package->spec.moments->file, "moments.ts");
  EXPECT_EQ(package->spec.moments->predict_method, "find");
  EXPECT_EQ(package->spec.moments->max_frames, 75);
  EXPECT_EQ(package->spec.moments->max_tokens, 32);
  ASSERT_EQ(package->canary.moments.size(), 1U);
  EXPECT_THAT(package->canary.moments[0].spans, ElementsAre(1, 0.25F, 0.5F));
  EXPECT_THAT(package->canary.moments[0].saliency, ElementsAre(0.5F));
  for (const char* file : {"moments.ts", "canary/other.png"}) {
    const std::string contents = *ReadFile(folder.PathOf(file));
    WriteFile(folder.PathOf(file), contents + " ");
    EXPECT_NE(ReadModelPackage(folder.path())->fingerprint,
              package->fingerprint);
    WriteFile(folder.PathOf(file), contents);
  }
  WriteFile(folder.PathOf("canary/canary.json"), TinyCanaryJson().dump());
  EXPECT_THAT(ReadModelPackage(folder.path()).status().message(),
              HasSubstr("moments is missing"));
}

TEST(ModelPackageTest, SaysWhereJsonBreaks) {
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path());
  WriteFile(folder.PathOf("model.json"), "{\n\"name\": }");
  const absl::Status status = ReadModelPackage(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("line 2"));
}

TEST(ModelPackageTest, NamesAFileThatIsMissing) {
  for (const char* file : {"model.json", "image.ts", "text.ts", "vocab.txt",
                           "canary/canary.json", "canary/image.png"}) {
    const TemporaryFolder folder;
    WriteTinyPackage(folder.path());
    fs::remove(folder.PathOf(file));
    const absl::Status status = ReadModelPackage(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr(std::string("\"") + file + "\""));
  }
}

TEST(ModelPackageTest, KeepsToItsFolder) {
  const TemporaryFolder outside;
  WriteFile(outside.PathOf("image.ts"), "outside");
  const std::string relative =
      "../" + fs::path(outside.path()).filename().string() + "/image.ts";
  for (const std::string& file :
       {relative, "canary/../" + relative, outside.PathOf("image.ts"),
        std::string("link.ts")}) {
    Json model = TinyModelJson();
    model["image"]["file"] = file;
    const TemporaryFolder folder;
    WriteTinyPackage(folder.path(), model);
    fs::create_symlink(outside.PathOf("image.ts"), folder.PathOf("link.ts"));
    const absl::Status status = ReadModelPackage(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << file;
    EXPECT_THAT(status.message(), HasSubstr("leads out of")) << file;
  }
}

// Computed from the definition in model_package.h with Python's hashlib.
TEST(ModelPackageTest, HasTheDocumentedFingerprint) {
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path());
  const absl::StatusOr<ModelPackage> package = ReadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_EQ(package->fingerprint,
            "6c8133f0b2d651c5efb9c5985dcc99686bd22488d9f08e5f3e9e49f554a4e7f4");
}

TEST(ModelPackageTest, ChangesItsFingerprintWithEveryFile) {
  const TemporaryFolder folder;
  WriteTinyPackage(folder.path());
  const std::string before = ReadModelPackage(folder.path())->fingerprint;
  WriteFile(folder.PathOf("not-named-anywhere"), "x");
  EXPECT_EQ(ReadModelPackage(folder.path())->fingerprint, before);
  for (const char* file : {"model.json", "image.ts", "text.ts", "vocab.txt",
                           "canary/canary.json", "canary/image.png"}) {
    const std::string contents = *ReadFile(folder.PathOf(file));
    WriteFile(folder.PathOf(file), contents + " ");
    EXPECT_NE(ReadModelPackage(folder.path())->fingerprint, before) << file;
    WriteFile(folder.PathOf(file), contents);
    EXPECT_EQ(ReadModelPackage(folder.path())->fingerprint, before) << file;
  }
}

}  // namespace
}  // namespace quern
