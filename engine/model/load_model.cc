#include "engine/model/load_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

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
    const ModelPackage& package, const std::string& device,
    Precision precision) {
  TorchEncoderOptions options{.dimension = package.spec.dimension,
                              .device = device,
                              .precision = precision};
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
    options.tokens_method = package.spec.text->tokens_method;
    options.packed_method = package.spec.text->packed_method;
    options.max_tokens = MaxTokensOf(package.spec.text->tokenizer);
  }
  if (package.spec.match.has_value()) {
    options.match_file = package.PathOf(package.spec.match->file);
    options.match_method = package.spec.match->score_method;
  }
  if (package.spec.moments.has_value()) {
    options.moments_file = package.PathOf(package.spec.moments->file);
    options.moments_method = package.spec.moments->predict_method;
  }
  return TorchEncoder::Create(std::move(options));
}

// CheckCanaryAndWarmUp() adds what it means.
absl::Status CanaryMismatch(absl::string_view what) {
  return absl::DataLossError(what);
}

// How near an embedding must be to the stored one.
struct Nearness {
  bool exact = true;     // Within `tolerance`; else by kMinReducedCosine.
  double tolerance = 0;  // Largest difference of any value.
};

absl::Status CompareCosine(absl::string_view input,
                           absl::Span<const float> actual,
                           absl::Span<const float> expected) {
  double product = 0, actual_squares = 0, expected_squares = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    product += double{actual[i]} * expected[i];
    actual_squares += double{actual[i]} * actual[i];
    expected_squares += double{expected[i]} * expected[i];
  }
  const double cosine = product / std::sqrt(actual_squares * expected_squares);
  if (cosine >= kMinReducedCosine) return absl::OkStatus();
  return CanaryMismatch(absl::StrCat("the cosine of the embedding of ",
                                     Quoted(input), " with the stored one is ",
                                     cosine, ", at least ", kMinReducedCosine,
                                     " is expected"));
}

// NaN counts as a difference beyond any tolerance.
absl::Status CompareEmbeddings(absl::string_view input,
                               absl::Span<const float> actual,
                               absl::Span<const float> expected,
                               const Nearness& nearness) {
  if (!nearness.exact) return CompareCosine(input, actual, expected);
  const double tolerance = nearness.tolerance;
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
                        const Encoder& encoder, const Nearness& nearness) {
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
        canary.texts[i].embedding, nearness));
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
  Normalise(Fit(*std::move(image), preprocessing).rgb, preprocessing,
            absl::MakeSpan(pixels.values));
  return pixels;
}

absl::Status CheckCells(const CanaryImage& image, const DenseMaps& maps,
                        const Nearness& nearness) {
  for (const CanaryCell& cell : image.cells) {
    const std::string name =
        absl::StrCat("row ", cell.row, ", column ", cell.column,
                     " of the grid of ", image.file);
    if (cell.row >= maps.grid_height || cell.column >= maps.grid_width) {
      return CanaryMismatch(absl::StrCat(name, " is outside: the grid has ",
                                         maps.grid_height, " x ",
                                         maps.grid_width, " cells"));
    }
    const auto first =
        maps.values.begin() +
        (cell.row * maps.grid_width + cell.column) * maps.dimension;
    std::vector<float> actual(first, first + maps.dimension);
    double squares = 0;
    for (const float value : actual) squares += double{value} * value;
    for (float& value : actual) {
      value = static_cast<float>(value / std::sqrt(squares));
    }
    QUERN_RETURN_IF_ERROR(
        CompareEmbeddings(name, actual, cell.embedding, nearness));
  }
  return absl::OkStatus();
}

absl::Status CheckImages(const ModelPackage& package,
                         const ImageTowerSpec& tower, const Encoder& encoder,
                         const Nearness& nearness) {
  for (const CanaryImage& image : package.canary.images) {
    QUERN_ASSIGN_OR_RETURN(
        const PixelBatch pixels,
        CanaryPixels(package, image.file, tower.preprocessing));
    absl::StatusOr<Matrix> rows = encoder.EncodeImages(pixels);
    if (!rows.ok()) return CanaryMismatch(rows.status().message());
    QUERN_RETURN_IF_ERROR(
        CompareEmbeddings(image.file, rows->row(0), image.embedding, nearness));
    if (tower.dense_method.empty()) continue;
    absl::StatusOr<DenseMaps> maps = encoder.EncodeDense(pixels);
    if (!maps.ok()) return CanaryMismatch(maps.status().message());
    QUERN_RETURN_IF_ERROR(CheckCells(image, *maps, nearness));
  }
  return absl::OkStatus();
}

// Logits are of any size: beyond one, the tolerance is relative.
absl::Status CheckMatches(const ModelPackage& package,
                          const Tokenizer& tokenizer, const Encoder& encoder) {
  for (const CanaryMatch& match : package.canary.matches) {
    QUERN_ASSIGN_OR_RETURN(
        const PixelBatch pixels,
        CanaryPixels(package, match.file, package.spec.image->preprocessing));
    const Tokens tokens = tokenizer.Tokenize(match.text);
    absl::StatusOr<std::vector<float>> scores =
        encoder.Match(pixels, {&tokens, 1});
    if (!scores.ok()) return CanaryMismatch(scores.status().message());
    const double allowed =
        package.canary.tolerance * std::max(1.0F, std::abs(match.score));
    const double difference = std::abs(double{scores->front()} - match.score);
    if (!(difference <= allowed)) {
      return CanaryMismatch(
          absl::StrCat("the match score of ", Quoted(match.text), " with ",
                       Quoted(match.file), " is off by ", difference,
                       ", allowed are ", allowed));
    }
  }
  return absl::OkStatus();
}

// [frames, dimension].
absl::StatusOr<Matrix> CanaryFrames(const ModelPackage& package,
                                    const CanaryMoment& moment,
                                    const Encoder& encoder) {
  Matrix frames(static_cast<int64_t>(moment.frames.size()),
                encoder.dimension());
  for (int64_t i = 0; i < frames.rows(); ++i) {
    QUERN_ASSIGN_OR_RETURN(const PixelBatch pixels,
                           CanaryPixels(package, moment.frames[i],
                                        package.spec.image->preprocessing));
    QUERN_ASSIGN_OR_RETURN(const Matrix row, encoder.EncodeImages(pixels));
    absl::c_copy(row.row(0), frames.row(i).begin());
  }
  return frames;
}

// The head's spans, three values each, and behind them its saliency.
std::vector<float> ValuesOf(const MomentPrediction& prediction) {
  std::vector<float> values;
  for (const MomentPrediction::Span& span : prediction.spans) {
    values.insert(values.end(), {span.probability, span.centre, span.width});
  }
  absl::c_copy(prediction.saliency, std::back_inserter(values));
  return values;
}

absl::Status CompareMoments(const CanaryMoment& moment,
                            const MomentPrediction& prediction,
                            double tolerance) {
  const std::vector<float> actual = ValuesOf(prediction);
  std::vector<float> expected = moment.spans;
  absl::c_copy(moment.saliency, std::back_inserter(expected));
  if (actual.size() != expected.size()) {
    return CanaryMismatch(absl::StrCat(
        "the moments head gave ", prediction.spans.size(), " spans for ",
        Quoted(moment.text), ", expected ", moment.spans.size() / 3));
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    const double allowed = tolerance * std::max(1.0F, std::abs(expected[i]));
    const double difference = std::abs(double{actual[i]} - expected[i]);
    if (difference <= allowed) continue;
    return CanaryMismatch(absl::StrCat("the moments of ", Quoted(moment.text),
                                       " are off by ", difference,
                                       ", allowed are ", allowed));
  }
  return absl::OkStatus();
}

// What the towers give is rounded in a reduced precision, and the head makes
// anything of that: only with exact towers its output is compared.
absl::Status CheckMoments(const ModelPackage& package,
                          const Tokenizer& tokenizer, const Encoder& encoder,
                          const Nearness& nearness) {
  for (const CanaryMoment& moment : package.canary.moments) {
    QUERN_ASSIGN_OR_RETURN(const Matrix frames,
                           CanaryFrames(package, moment, encoder));
    const Tokens tokens = tokenizer.Tokenize(moment.text);
    absl::StatusOr<std::vector<Matrix>> text =
        encoder.EncodeTokens({&tokens, 1});
    if (!text.ok()) return CanaryMismatch(text.status().message());
    const MatrixView features = text->front().view();
    absl::StatusOr<std::vector<MomentPrediction>> predictions =
        encoder.PredictMoments({&features, 1}, frames.view());
    if (!predictions.ok()) {
      return CanaryMismatch(predictions.status().message());
    }
    if (!nearness.exact) continue;
    QUERN_RETURN_IF_ERROR(
        CompareMoments(moment, predictions->front(), nearness.tolerance));
  }
  return absl::OkStatus();
}

absl::Status CheckCanary(const ModelPackage& package,
                         const Tokenizer* tokenizer, const Encoder& encoder,
                         const Nearness& nearness) {
  if (tokenizer != nullptr) {
    QUERN_RETURN_IF_ERROR(
        CheckTexts(package.canary, *tokenizer, encoder, nearness));
  }
  if (package.spec.image.has_value()) {
    QUERN_RETURN_IF_ERROR(
        CheckImages(package, *package.spec.image, encoder, nearness));
  }
  // A match head reads texts too; the package was refused without a tower.
  if (package.spec.match.has_value() && tokenizer != nullptr) {
    QUERN_RETURN_IF_ERROR(CheckMatches(package, *tokenizer, encoder));
  }
  if (package.spec.moments.has_value() && tokenizer != nullptr) {
    QUERN_RETURN_IF_ERROR(CheckMoments(package, *tokenizer, encoder, nearness));
  }
  return absl::OkStatus();
}

// Modules compile at their first call and settle at their second.
absl::Status CheckCanaryAndWarmUp(const ModelPackage& package,
                                  const Tokenizer* tokenizer,
                                  const Encoder& encoder,
                                  const Nearness& nearness) {
  constexpr int kRounds = 2;
  absl::Status status;
  for (int round = 0; round < kRounds && status.ok(); ++round) {
    status = CheckCanary(package, tokenizer, encoder, nearness);
  }
  if (!absl::IsDataLoss(status)) return status;
  if (!nearness.exact) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the canary failed in the precision asked for: ", status.message(),
        "; the towers do not stand it: set models.precision to auto or fp32"));
  }
  return absl::DataLossError(absl::StrCat(
      "the canary failed: ", status.message(),
      "; the package is damaged or was exported for another version: export it "
      "again, or run scripts/setup"));
}

struct CheckedEncoder {
  std::unique_ptr<TorchEncoder> encoder;
  Precision precision = Precision::kFp32;
};

absl::StatusOr<CheckedEncoder> MakeReducedEncoder(const ModelPackage& package,
                                                  const Tokenizer* tokenizer,
                                                  const std::string& device,
                                                  Precision precision) {
  CheckedEncoder reduced{.precision = precision};
  QUERN_ASSIGN_OR_RETURN(reduced.encoder,
                         MakeEncoder(package, device, precision));
  QUERN_RETURN_IF_ERROR(CheckCanaryAndWarmUp(
      package, tokenizer, *reduced.encoder, {.exact = false}));
  return reduced;
}

// The package has to be right in fp32 whatever it will run in: a reduction's
// bound would let small damage pass.
absl::StatusOr<CheckedEncoder> MakeCheckedEncoder(const ModelPackage& package,
                                                  const Tokenizer* tokenizer,
                                                  const std::string& device,
                                                  Precision precision) {
  CheckedEncoder full;
  QUERN_ASSIGN_OR_RETURN(full.encoder,
                         MakeEncoder(package, device, Precision::kFp32));
  QUERN_RETURN_IF_ERROR(
      CheckCanaryAndWarmUp(package, tokenizer, *full.encoder,
                           {.tolerance = package.canary.tolerance}));
  const bool automatic = precision == Precision::kAuto;
  if (precision == Precision::kFp32 ||
      (automatic && (device != "cpu" || !CpuHasBf16()))) {
    return full;
  }
  absl::StatusOr<CheckedEncoder> reduced = MakeReducedEncoder(
      package, tokenizer, device, automatic ? Precision::kBf16 : precision);
  // Towers may hold operators that know floats only, or lose too much.
  if (automatic && !reduced.ok()) return full;
  return reduced;
}

ModelInfo InfoOf(const ModelPackage& package, const std::string& device,
                 Precision precision, int64_t memory_bytes) {
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
      .precision = precision,
      .memory_bytes = memory_bytes,
      .max_tokens =
          spec.text.has_value() ? MaxTokensOf(spec.text->tokenizer) : 0,
      .load_time = absl::Now(),
      .size_multiple = spec.image.has_value() ? spec.image->size_multiple : 1,
      .dense_side = spec.image.has_value() ? spec.image->dense_side : 0,
      .max_moment_frames =
          spec.moments.has_value() ? spec.moments->max_frames : 0,
      .max_moment_tokens =
          spec.moments.has_value() ? spec.moments->max_tokens : 0,
      .regions = spec.regions,
      .segments = spec.segments,
  };
}

// The towers' batchers, with what was left open filled in.
ModelBatching BatchingOf(const LoadModelOptions& options,
                         const EncoderTuning& tuning) {
  ModelBatching batching{.text = options.batching, .image = options.batching};
  for (BatchOptions* tower : {&batching.text, &batching.image}) {
    if (tower->threads > 0) continue;
    tower->threads = options.device == "cpu"
                         ? std::max(1U, std::thread::hardware_concurrency())
                         : 1;
  }
  if (options.batching.max_rows == 0) {
    batching.text.max_rows = tuning.text_rows;
    batching.image.max_rows = tuning.image_rows;
  }
  batching.text.first_time_per_cost =
      tuning.text_row / EncoderTuning::kTextTokens;
  batching.image.first_time_per_cost = tuning.image_row;
  return batching;
}

absl::StatusOr<std::shared_ptr<const Model>> BuildModel(
    const ModelPackage& package, const LoadModelOptions& options) {
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                         MakeTokenizer(package));
  QUERN_ASSIGN_OR_RETURN(CheckedEncoder checked,
                         MakeCheckedEncoder(package, tokenizer.get(),
                                            options.device, options.precision));
  const ImagePreprocessing preprocessing =
      package.spec.image.has_value() ? package.spec.image->preprocessing
                                     : ImagePreprocessing();
  Tokens words;
  if (!package.canary.texts.empty()) words.ids = package.canary.texts[0].ids;
  checked.encoder->Tune(preprocessing.height, preprocessing.width, words);
  const ModelBatching batching = BatchingOf(options, checked.encoder->tuning());
  return std::make_shared<const Model>(
      InfoOf(package, options.device, checked.precision,
             checked.encoder->memory_bytes()),
      preprocessing, std::move(tokenizer), std::move(checked.encoder),
      batching);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> LoadModel(
    const LoadModelOptions& options) {
  QUERN_ASSIGN_OR_RETURN(const ModelPackage package,
                         ReadModelPackage(options.path));
  absl::StatusOr<std::shared_ptr<const Model>> model =
      BuildModel(package, options);
  if (!model.ok()) {
    return Annotate(
        model.status(),
        absl::StrCat("model package ", Quoted(options.path, kMaxShownPath)));
  }
  return model;
}

}  // namespace quern
