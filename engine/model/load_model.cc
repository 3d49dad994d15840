#include "engine/model/load_model.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"
#include "engine/media/vips_image_decoder.h"
#include "engine/model/model_package.h"
#include "engine/model/torch_encoder.h"
#include "engine/text/clip_bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/wordpiece_tokenizer.h"

namespace quern {
namespace {

constexpr size_t kMaxShownPath = 4096;

// Reads the tokeniser's files, one overload for each kind.
class TokenizerMaker {
 public:
  using Result = absl::StatusOr<std::unique_ptr<Tokenizer>>;

  explicit TokenizerMaker(const ModelPackage& package) : package_(package) {}

  Result operator()(const WordPieceSpec& spec) const {
    QUERN_ASSIGN_OR_RETURN(std::string vocabulary, Read(spec.vocabulary));
    return WordPieceTokenizer::Create({.vocabulary = std::move(vocabulary),
                                       .lowercase = spec.lowercase,
                                       .strip_accents = spec.strip_accents,
                                       .max_tokens = spec.max_tokens});
  }

  Result operator()(const ClipBpeSpec& spec) const {
    QUERN_ASSIGN_OR_RETURN(const std::string vocabulary, Read(spec.vocabulary));
    QUERN_ASSIGN_OR_RETURN(const std::string merges, Read(spec.merges));
    return ClipBpeTokenizer::Create({.vocabulary = vocabulary,
                                     .merges = merges,
                                     .max_tokens = spec.max_tokens});
  }

  Result operator()(const SentencePieceSpec& spec) const {
    QUERN_ASSIGN_OR_RETURN(const std::string model, Read(spec.model));
    return SentencePieceTokenizer::Create(
        {.model = model,
         .lowercase = spec.lowercase,
         .remove_punctuation = spec.remove_punctuation,
         .add_bos = spec.add_bos,
         .add_eos = spec.add_eos,
         .max_tokens = spec.max_tokens});
  }

 private:
  absl::StatusOr<std::string> Read(const std::string& file) const {
    return ReadFile(package_.PathOf(file));
  }

  const ModelPackage& package_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    const ModelPackage& package) {
  if (!package.spec.text.has_value()) return nullptr;
  const TokenizerSpec& spec = package.spec.text->tokenizer;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      std::visit(TokenizerMaker(package), spec);
  if (!tokenizer.ok()) {
    return Annotate(tokenizer.status(), absl::StrJoin(FilesOf(spec), ", "));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<TorchEncoder>> MakeEncoder(
    const ModelPackage& package, const std::string& device) {
  TorchEncoderOptions options{.dimension = package.spec.dimension,
                              .device = device};
  if (package.spec.image.has_value()) {
    const ImageTowerSpec& image = *package.spec.image;
    options.image_file = package.PathOf(image.file);
    options.image_method = image.global_method;
    options.dense_method = image.dense_method;
    options.size_multiple = image.size_multiple;
    if (image.dense_stride > 0) options.dense_stride = image.dense_stride;
  }
  if (package.spec.text.has_value()) {
    options.text_file = package.PathOf(package.spec.text->file);
    options.text_method = package.spec.text->global_method;
  }
  return TorchEncoder::Create(std::move(options));
}

absl::Status CanaryMismatch(absl::string_view what) {
  return absl::DataLossError(absl::StrCat(
      "the canary failed: ", what,
      "; the package is damaged or was exported for another version: export it "
      "again, or run scripts/setup"));
}

// NaN counts as a difference beyond any tolerance.
absl::Status CompareEmbeddings(absl::string_view input,
                               absl::Span<const float> actual,
                               absl::Span<const float> expected,
                               double tolerance) {
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(double{actual[i]} - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  if (largest <= tolerance) return absl::OkStatus();
  return CanaryMismatch(absl::StrCat("the embedding of ", Quoted(input),
                                     " is off by ", largest, ", allowed are ",
                                     tolerance));
}

absl::Status CheckTexts(const CanarySpec& canary, const Tokenizer& tokenizer,
                        const Encoder& encoder) {
  std::vector<Tokens> texts;
  for (const CanaryText& text : canary.texts) {
    texts.push_back(tokenizer.Tokenize(text.text));
    if (texts.back().ids != text.ids) {
      return CanaryMismatch(
          absl::StrCat("the tokens of ", Quoted(text.text), " are ",
                       absl::StrJoin(texts.back().ids, " "), ", expected ",
                       absl::StrJoin(text.ids, " ")));
    }
  }
  absl::StatusOr<Matrix> rows = encoder.EncodeText(texts);
  if (!rows.ok()) return CanaryMismatch(rows.status().message());
  for (size_t i = 0; i < texts.size(); ++i) {
    QUERN_RETURN_IF_ERROR(CompareEmbeddings(
        canary.texts[i].text, rows->row(static_cast<int64_t>(i)),
        canary.texts[i].embedding, canary.tolerance));
  }
  return absl::OkStatus();
}

absl::StatusOr<PixelBatch> CanaryPixels(
    const ModelPackage& package, const std::string& file,
    const ImagePreprocessing& preprocessing) {
  QUERN_ASSIGN_OR_RETURN(const std::string encoded,
                         ReadFile(package.CanaryPathOf(file)));
  QUERN_ASSIGN_OR_RETURN(const auto decoder, VipsImageDecoder::Create({}));
  absl::StatusOr<Image> image = decoder->Decode(encoded);
  if (!image.ok()) {
    return CanaryMismatch(
        absl::StrCat(Quoted(file), ": ", image.status().message()));
  }
  PixelBatch pixels{
      .rows = 1, .height = preprocessing.height, .width = preprocessing.width};
  pixels.values.resize(3 * pixels.height * pixels.width);
  Preprocess(*image, preprocessing, absl::MakeSpan(pixels.values));
  return pixels;
}

absl::Status CheckImages(const ModelPackage& package,
                         const ImageTowerSpec& tower, const Encoder& encoder) {
  for (const CanaryImage& image : package.canary.images) {
    QUERN_ASSIGN_OR_RETURN(
        const PixelBatch pixels,
        CanaryPixels(package, image.file, tower.preprocessing));
    absl::StatusOr<Matrix> rows = encoder.EncodeImages(pixels);
    if (!rows.ok()) return CanaryMismatch(rows.status().message());
    QUERN_RETURN_IF_ERROR(CompareEmbeddings(
        image.file, rows->row(0), image.embedding, package.canary.tolerance));
    if (tower.dense_method.empty()) continue;
    absl::StatusOr<DenseMaps> maps = encoder.EncodeDense(pixels);
    if (!maps.ok()) return CanaryMismatch(maps.status().message());
  }
  return absl::OkStatus();
}

absl::Status CheckCanary(const ModelPackage& package,
                         const Tokenizer* tokenizer, const Encoder& encoder) {
  if (tokenizer != nullptr) {
    QUERN_RETURN_IF_ERROR(CheckTexts(package.canary, *tokenizer, encoder));
  }
  if (package.spec.image.has_value()) {
    QUERN_RETURN_IF_ERROR(CheckImages(package, *package.spec.image, encoder));
  }
  return absl::OkStatus();
}

// Modules compile at their first call and settle at their second.
absl::Status CheckCanaryAndWarmUp(const ModelPackage& package,
                                  const Tokenizer* tokenizer,
                                  const Encoder& encoder) {
  constexpr int kRounds = 2;
  for (int round = 0; round < kRounds; ++round) {
    QUERN_RETURN_IF_ERROR(CheckCanary(package, tokenizer, encoder));
  }
  return absl::OkStatus();
}

ModelInfo InfoOf(const ModelPackage& package, const std::string& device,
                 int64_t memory_bytes) {
  const ModelSpec& spec = package.spec;
  return {
      .name = spec.name,
      .version = spec.version,
      .description = spec.description,
      .licence = spec.licence,
      .fingerprint = package.fingerprint,
      .dimension = spec.dimension,
      .capabilities = spec.capabilities,
      .device = device,
      .memory_bytes = memory_bytes,
      .max_tokens =
          spec.text.has_value() ? MaxTokensOf(spec.text->tokenizer) : 0,
  };
}

absl::StatusOr<std::shared_ptr<const Model>> BuildModel(
    const ModelPackage& package, const std::string& device) {
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                         MakeTokenizer(package));
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<TorchEncoder> encoder,
                         MakeEncoder(package, device));
  QUERN_RETURN_IF_ERROR(
      CheckCanaryAndWarmUp(package, tokenizer.get(), *encoder));
  const ImagePreprocessing preprocessing =
      package.spec.image.has_value() ? package.spec.image->preprocessing
                                     : ImagePreprocessing();
  return std::make_shared<const Model>(
      InfoOf(package, device, encoder->memory_bytes()), preprocessing,
      std::move(tokenizer), std::move(encoder));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> LoadModel(
    const LoadModelOptions& options) {
  QUERN_ASSIGN_OR_RETURN(const ModelPackage package,
                         ReadModelPackage(options.path));
  absl::StatusOr<std::shared_ptr<const Model>> model =
      BuildModel(package, options.device);
  if (!model.ok()) {
    return Annotate(
        model.status(),
        absl::StrCat("model package ", Quoted(options.path, kMaxShownPath)));
  }
  return model;
}

}  // namespace quern
