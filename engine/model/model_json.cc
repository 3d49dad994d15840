#include "engine/model/model_json.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxDimension = 65'536;
constexpr int64_t kMaxSide = 4096;
constexpr int64_t kMaxDenseSide = 2048;  // 4,096 cells at a stride of 32.
constexpr int64_t kMaxTokens = 65'536;
constexpr int64_t kMaxMomentFrames = 4096;
constexpr int64_t kMaxNameBytes = 64;
constexpr double kMaxPixelValue = 255;

std::string Shown(const Json& value) {
  return Quoted(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

template <typename T>
struct Named {
  absl::string_view name;
  T value;
};

// Takes an object apart key by key. The first thing wrong is kept in a status
// that all readers of a document share; after it, getters return defaults.
class ObjectReader {
 public:
  ObjectReader(const Json& json, std::string path, absl::Status* status)
      : json_(json), path_(std::move(path)), status_(status) {
    if (!json_.is_object()) Reject(path_, json_, "must be an object");
  }

  // Of a key that may be missing; one that is there is to be read.
  bool Has(const char* key) {
    known_.insert(key);
    return json_.is_object() && json_.contains(key);
  }

  std::string String(const char* key) {
    const Json* value = Find(key);
    if (value == nullptr) return "";
    if (!value->is_string() || value->get_ref<const std::string&>().empty()) {
      Reject(PathOf(key), *value, "must be a string that is not empty");
      return "";
    }
    return value->get<std::string>();
  }

  bool Boolean(const char* key) {
    const Json* value = Find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) {
      Reject(PathOf(key), *value, "must be true or false");
      return false;
    }
    return value->get<bool>();
  }

  int64_t Integer(const char* key, int64_t min, int64_t max) {
    const Json* value = Find(key);
    return value == nullptr ? 0 : Integer(PathOf(key), *value, min, max);
  }

  // A finite number that a float holds.
  float Number(const char* key) {
    const Json* value = Find(key);
    const double number =
        value != nullptr && value->is_number() ? value->get<double>() : NAN;
    if (value != nullptr &&
        !(std::abs(number) <= std::numeric_limits<float>::max())) {
      Reject(PathOf(key), *value, "must be a finite number");
    }
    return static_cast<float>(number);
  }

  // A finite number above `min` and at most `max`.
  double NumberAbove(const char* key, double min, double max) {
    const Json* value = Find(key);
    if (value == nullptr) return 0;
    if (!value->is_number() || !(value->get<double>() > min) ||
        !(value->get<double>() <= max)) {
      Reject(PathOf(key), *value,
             absl::StrCat("must be a number above ", min, ", at most ", max));
      return 0;
    }
    return value->get<double>();
  }

  template <typename T>
  T Choice(const char* key, absl::Span<const Named<T>> choices) {
    const Json* value = Find(key);
    if (value == nullptr) return choices[0].value;
    for (const Named<T>& choice : choices) {
      if (*value == std::string(choice.name)) return choice.value;
    }
    Reject(PathOf(key), *value,
           absl::StrCat(
               "must be one of ",
               absl::StrJoin(choices, ", ",
                             [](std::string* out, const Named<T>& choice) {
                               absl::StrAppend(out, choice.name);
                             })));
    return choices[0].value;
  }

  std::vector<std::string> Choices(const char* key,
                                   absl::Span<const absl::string_view> known) {
    std::vector<std::string> chosen;
    ForEach(key, [&](const std::string& path, const Json& value) {
      const bool is_known = std::any_of(
          known.begin(), known.end(),
          [&](absl::string_view name) { return value == std::string(name); });
      if (!is_known) {
        Reject(path, value,
               absl::StrCat("must be one of ", absl::StrJoin(known, ", ")));
        return;
      }
      chosen.push_back(value.get<std::string>());
    });
    return chosen;
  }

  // Finite numbers, `count` of them.
  std::vector<float> Numbers(const char* key, int64_t count) {
    std::vector<float> numbers;
    ForEach(key, [&](const std::string& path, const Json& value) {
      const double number = value.is_number() ? value.get<double>() : NAN;
      if (!(std::abs(number) <= std::numeric_limits<float>::max())) {
        Reject(path, value, "must be a finite number");
        return;
      }
      numbers.push_back(static_cast<float>(number));
    });
    CheckCount(key, static_cast<int64_t>(numbers.size()), count);
    return numbers;
  }

  // One number per colour channel, `min` to `max`.
  std::array<float, 3> Channels(const char* key, double min, double max) {
    const std::vector<float> numbers = Numbers(key, 3);
    if (!status_->ok()) return {};
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] < min || numbers[i] > max) {
        Reject(absl::StrCat(PathOf(key), "[", i, "]"), json_[key][i],
               absl::StrCat("must be ", min, " to ", max));
      }
    }
    return {numbers[0], numbers[1], numbers[2]};
  }

  std::vector<int32_t> TokenIds(const char* key) {
    std::vector<int32_t> ids;
    ForEach(key, [&](const std::string& path, const Json& value) {
      ids.push_back(static_cast<int32_t>(
          Integer(path, value, 0, std::numeric_limits<int32_t>::max())));
    });
    return ids;
  }

  ObjectReader Object(const char* key) {
    static const Json* const kEmpty = new Json(Json::object());
    const Json* value = Find(key);
    return {value == nullptr ? *kEmpty : *value, PathOf(key), status_};
  }

  std::vector<ObjectReader> Objects(const char* key) {
    std::vector<ObjectReader> objects;
    ForEach(key, [&](const std::string& path, const Json& value) {
      objects.emplace_back(value, path, status_);
    });
    return objects;
  }

  // Accepts an object without looking into it.
  void Skip(const char* key) { Object(key); }

  // To be called last: refuses the keys that nobody asked for.
  void Finish() {
    if (!json_.is_object()) return;
    for (const auto& [key, value] : json_.items()) {
      if (known_.contains(key)) continue;
      std::vector<std::string> known(known_.begin(), known_.end());
      std::sort(known.begin(), known.end());
      Fail(absl::StrCat(PathOf(Quoted(key)), " is not a known key: known are ",
                        absl::StrJoin(known, ", ")));
    }
  }

  void Reject(const std::string& path, const Json& value,
              absl::string_view rule) {
    Fail(absl::StrCat(path.empty() ? "the document" : path, " is ",
                      Shown(value), ": it ", rule));
  }

  void RejectKey(const char* key, absl::string_view rule) {
    Reject(PathOf(key), json_[key], rule);
  }

  bool ok() const { return status_->ok(); }

 private:
  std::string PathOf(absl::string_view key) const {
    return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key);
  }

  const Json* Find(const char* key) {
    known_.insert(key);
    if (!json_.is_object()) return nullptr;
    const auto found = json_.find(key);
    if (found == json_.end()) {
      Fail(absl::StrCat(PathOf(key), " is missing"));
      return nullptr;
    }
    return &*found;
  }

  template <typename Visit>
  void ForEach(const char* key, Visit visit) {
    const Json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_array() || value->empty()) {
      Reject(PathOf(key), *value, "must be an array that is not empty");
      return;
    }
    for (size_t i = 0; i < value->size(); ++i) {
      visit(absl::StrCat(PathOf(key), "[", i, "]"), (*value)[i]);
    }
  }

  int64_t Integer(const std::string& path, const Json& value, int64_t min,
                  int64_t max) {
    // Beyond int64_t, get() would wrap around.
    const bool fits =
        value.is_number_integer() &&
        (!value.is_number_unsigned() ||
         value.get<uint64_t>() <=
             static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    const int64_t number = fits ? value.get<int64_t>() : 0;
    if (!fits || number < min || number > max) {
      Reject(path, value,
             absl::StrCat("must be a whole number, ", min, " to ", max));
      return min;
    }
    return number;
  }

  void CheckCount(const char* key, int64_t count, int64_t wanted) {
    if (count == wanted) return;
    Fail(absl::StrCat(PathOf(key), " has ", count, " values: it must have ",
                      wanted));
  }

  void Fail(absl::string_view message) {
    if (status_->ok()) *status_ = absl::InvalidArgumentError(message);
  }

  const Json& json_;
  const std::string path_;
  absl::Status* const status_;
  absl::flat_hash_set<std::string> known_;
};

absl::StatusOr<Json> Parse(absl::string_view text) {
  absl::StatusOr<Json> json =
      Guard("json", [&] { return Json::parse(text.begin(), text.end()); });
  if (json.ok() || absl::IsResourceExhausted(json.status())) return json;
  return absl::InvalidArgumentError(json.status().message());
}

bool IsModelName(absl::string_view name) {
  return name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) ||
                  c == '-' || c == '_' || c == '.';
         });
}

ImagePreprocessing ReadPreprocessing(ObjectReader reader) {
  ImagePreprocessing preprocessing;
  preprocessing.width = reader.Integer("width", 1, kMaxSide);
  preprocessing.height = reader.Integer("height", 1, kMaxSide);
  preprocessing.mode = reader.Choice<ResizeMode>(
      "resize", {{"letterbox", ResizeMode::kLetterbox},
                 {"squash", ResizeMode::kSquash},
                 {"center_crop", ResizeMode::kCenterCrop},
                 {"center_crop_floor", ResizeMode::kCenterCropFloor}});
  preprocessing.filter = reader.Choice<ResizeFilter>(
      "filter", {{"bicubic", ResizeFilter::kBicubic},
                 {"bilinear", ResizeFilter::kBilinear}});
  if (!reader.Boolean("antialias") && reader.ok()) {
    reader.RejectKey("antialias", "must be true: nothing else is built in");
  }
  const std::array<float, 3> pad =
      reader.Channels("pad_rgb", 0, kMaxPixelValue);
  for (size_t i = 0; i < pad.size(); ++i) {
    preprocessing.pad_rgb[i] = static_cast<uint8_t>(std::lround(pad[i]));
  }
  preprocessing.mean = reader.Channels("mean", 0, kMaxPixelValue);
  // A deviation of nothing would divide by zero.
  constexpr double kMinStd = 1e-3;
  preprocessing.std = reader.Channels("std", kMinStd, kMaxPixelValue);
  reader.Finish();
  return preprocessing;
}

ImageTowerSpec ReadImageTower(ObjectReader reader) {
  ImageTowerSpec tower;
  tower.file = reader.String("file");
  ObjectReader methods = reader.Object("methods");
  tower.global_method = methods.String("global");
  if (methods.Has("dense")) tower.dense_method = methods.String("dense");
  methods.Finish();
  tower.preprocessing = ReadPreprocessing(reader.Object("preprocess"));
  tower.size_multiple = reader.Integer("size_multiple", 1, kMaxSide);
  if (!tower.dense_method.empty()) {
    tower.dense_stride = reader.Integer("dense_stride", 1, kMaxSide);
    if (reader.Has("dense_side")) {
      tower.dense_side = reader.Integer("dense_side", 1, kMaxDenseSide);
    }
  }
  reader.Finish();
  return tower;
}

void CheckInputSize(const ImageTowerSpec& tower, ObjectReader& root) {
  const ImagePreprocessing& preprocessing = tower.preprocessing;
  if (!root.ok()) return;
  if (preprocessing.width % tower.size_multiple != 0 ||
      preprocessing.height % tower.size_multiple != 0) {
    root.Object("image").RejectKey(
        "size_multiple", "must divide preprocess.width and preprocess.height");
  }
  if (tower.dense_side % tower.size_multiple != 0) {
    root.Object("image").RejectKey("dense_side",
                                   "must be a multiple of size_multiple");
  }
}

WordPieceSpec ReadWordPiece(ObjectReader& reader, int64_t min_tokens) {
  WordPieceSpec tokenizer;
  tokenizer.vocabulary = reader.String("vocabulary");
  tokenizer.lowercase = reader.Boolean("lowercase");
  tokenizer.strip_accents = reader.Boolean("strip_accents");
  tokenizer.max_tokens = reader.Integer("max_tokens", min_tokens, kMaxTokens);
  return tokenizer;
}

ClipBpeSpec ReadClipBpe(ObjectReader& reader, int64_t min_tokens) {
  ClipBpeSpec tokenizer;
  tokenizer.vocabulary = reader.String("vocabulary");
  tokenizer.merges = reader.String("merges");
  tokenizer.max_tokens = reader.Integer("max_tokens", min_tokens, kMaxTokens);
  return tokenizer;
}

SentencePieceSpec ReadSentencePiece(ObjectReader& reader, int64_t min_tokens) {
  SentencePieceSpec tokenizer;
  tokenizer.model = reader.String("model");
  tokenizer.lowercase = reader.Boolean("lowercase");
  tokenizer.remove_punctuation = reader.Boolean("remove_punctuation");
  tokenizer.add_bos = reader.Boolean("add_bos");
  tokenizer.add_eos = reader.Boolean("add_eos");
  tokenizer.max_tokens = reader.Integer("max_tokens", min_tokens, kMaxTokens);
  return tokenizer;
}

TokenizerSpec ReadTokenizer(ObjectReader reader) {
  constexpr int64_t kMinTokens = 3;  // Two special ones and one of the text.
  enum class Kind { kWordPiece, kClipBpe, kSentencePiece };
  const Kind kind =
      reader.Choice<Kind>("kind", {{"wordpiece", Kind::kWordPiece},
                                   {"clip_bpe", Kind::kClipBpe},
                                   {"sentencepiece", Kind::kSentencePiece}});
  TokenizerSpec tokenizer;
  switch (kind) {
    case Kind::kWordPiece:
      tokenizer = ReadWordPiece(reader, kMinTokens);
      break;
    case Kind::kClipBpe:
      tokenizer = ReadClipBpe(reader, kMinTokens);
      break;
    case Kind::kSentencePiece:
      tokenizer = ReadSentencePiece(reader, kMinTokens);
      break;
  }
  reader.Finish();
  return tokenizer;
}

TextTowerSpec ReadTextTower(ObjectReader reader) {
  TextTowerSpec tower;
  tower.file = reader.String("file");
  ObjectReader methods = reader.Object("methods");
  tower.global_method = methods.String("global");
  if (methods.Has("tokens")) tower.tokens_method = methods.String("tokens");
  if (methods.Has("packed")) tower.packed_method = methods.String("packed");
  methods.Finish();
  tower.tokenizer = ReadTokenizer(reader.Object("tokenizer"));
  reader.Finish();
  return tower;
}

MatchHeadSpec ReadMatchHead(ObjectReader reader) {
  MatchHeadSpec head;
  head.file = reader.String("file");
  ObjectReader methods = reader.Object("methods");
  head.score_method = methods.String("score");
  methods.Finish();
  reader.Finish();
  return head;
}

MomentsHeadSpec ReadMomentsHead(ObjectReader reader) {
  MomentsHeadSpec head;
  head.file = reader.String("file");
  ObjectReader methods = reader.Object("methods");
  head.predict_method = methods.String("predict");
  methods.Finish();
  head.max_frames = reader.Integer("max_frames", 1, kMaxMomentFrames);
  head.max_tokens = reader.Integer("max_tokens", 1, kMaxTokens);
  reader.Finish();
  return head;
}

std::optional<CalibrationSpec> ReadCalibration(ObjectReader& reader,
                                               const char* key) {
  if (!reader.Has(key)) return std::nullopt;
  ObjectReader weights = reader.Object(key);
  const auto optional_number = [&weights](const char* name) {
    return weights.Has(name) ? weights.Number(name) : 0;
  };
  CalibrationSpec calibration = {.bias = weights.Number("bias"),
                                 .peak = weights.Number("peak"),
                                 .mean = weights.Number("mean"),
                                 .deviation = weights.Number("deviation"),
                                 .best = optional_number("best"),
                                 .inside = optional_number("inside"),
                                 .pooled = optional_number("pooled"),
                                 .threshold = weights.Number("threshold")};
  if (calibration.threshold < 0 || calibration.threshold > 1) {
    weights.RejectKey("threshold", "must be 0 to 1");
  }
  weights.Finish();
  return calibration;
}

// A capability needs the method that gives it.
absl::Status CheckCapabilities(const ModelSpec& spec) {
  for (const std::string& capability : spec.capabilities) {
    const bool has_method =
        (capability == "image.global" && spec.image.has_value()) ||
        (capability == "image.dense" && spec.image.has_value() &&
         !spec.image->dense_method.empty()) ||
        (capability == "text.global" && spec.text.has_value()) ||
        (capability == "text.tokens" && spec.text.has_value() &&
         !spec.text->tokens_method.empty()) ||
        (capability == "match" && spec.match.has_value()) ||
        (capability == "moments" && spec.moments.has_value());
    if (!has_method) {
      return absl::InvalidArgumentError(
          absl::StrCat("capabilities has ", Quoted(capability),
                       ", but the package names no tower and method for it"));
    }
  }
  return absl::OkStatus();
}

ModelSpec ReadModel(ObjectReader& reader) {
  reader.Integer("format_version", 1, 1);
  ModelSpec spec;
  spec.name = reader.String("name");
  if (!IsModelName(spec.name)) {
    reader.RejectKey("name", "must be 1 to 64 of a-z, 0-9, '-', '_' and '.'");
  }
  spec.version = reader.String("version");
  spec.description = reader.String("description");
  spec.licence = reader.String("licence");
  ObjectReader embedding = reader.Object("embedding");
  spec.dimension = embedding.Integer("dimension", 1, kMaxDimension);
  enum class Metric { kCosine };
  embedding.Choice<Metric>("metric", {{"cosine", Metric::kCosine}});
  embedding.Finish();
  spec.capabilities = reader.Choices(
      "capabilities", {"image.global", "image.dense", "text.global",
                       "text.tokens", "match", "moments"});
  if (reader.Has("image")) {
    spec.image = ReadImageTower(reader.Object("image"));
    CheckInputSize(*spec.image, reader);
  }
  if (reader.Has("text")) spec.text = ReadTextTower(reader.Object("text"));
  if (reader.Has("match")) {
    spec.match = ReadMatchHead(reader.Object("match"));
    if (!spec.image.has_value() || !spec.text.has_value()) {
      reader.RejectKey("match", "needs the sections image and text beside it");
    }
  }
  if (reader.Has("moments")) {
    spec.moments = ReadMomentsHead(reader.Object("moments"));
    if (!spec.image.has_value() || !spec.text.has_value() ||
        spec.text->tokens_method.empty()) {
      reader.RejectKey("moments",
                       "needs the sections image and text beside it, and "
                       "text.methods.tokens");
    }
  }
  ObjectReader canary = reader.Object("canary");
  spec.canary_file = canary.String("file");
  canary.Finish();
  if (reader.Has("calibration")) {
    ObjectReader calibration = reader.Object("calibration");
    spec.regions = ReadCalibration(calibration, "regions");
    spec.segments = ReadCalibration(calibration, "segments");
  }
  if (reader.Has("figures")) reader.Skip("figures");
  reader.Finish();
  return spec;
}

std::vector<CanaryCell> ReadCanaryCells(ObjectReader& image,
                                        int64_t dimension) {
  std::vector<CanaryCell> cells;
  for (ObjectReader& cell : image.Objects("cells")) {
    cells.push_back({.row = cell.Integer("row", 0, kMaxSide),
                     .column = cell.Integer("column", 0, kMaxSide),
                     .embedding = cell.Numbers("embedding", dimension)});
    cell.Finish();
  }
  return cells;
}

CanaryMoment ReadCanaryMoment(ObjectReader& moment) {
  CanaryMoment canary = {.text = moment.String("text")};
  for (ObjectReader& frame : moment.Objects("frames")) {
    canary.frames.push_back(frame.String("file"));
    canary.saliency.push_back(static_cast<float>(frame.Number("saliency")));
    frame.Finish();
  }
  for (ObjectReader& span : moment.Objects("spans")) {
    for (const char* key : {"probability", "centre", "width"}) {
      canary.spans.push_back(static_cast<float>(span.Number(key)));
    }
    span.Finish();
  }
  moment.Finish();
  return canary;
}

}  // namespace

std::vector<std::string> FilesOf(const TokenizerSpec& tokenizer) {
  if (const auto* wordpiece = std::get_if<WordPieceSpec>(&tokenizer)) {
    return {wordpiece->vocabulary};
  }
  if (const auto* clip = std::get_if<ClipBpeSpec>(&tokenizer)) {
    return {clip->vocabulary, clip->merges};
  }
  return {std::get<SentencePieceSpec>(tokenizer).model};
}

int64_t MaxTokensOf(const TokenizerSpec& tokenizer) {
  return std::visit([](const auto& spec) { return spec.max_tokens; },
                    tokenizer);
}

absl::StatusOr<ModelSpec> ParseModelJson(absl::string_view json) {
  QUERN_ASSIGN_OR_RETURN(const Json document, Parse(json));
  absl::Status status;
  ObjectReader reader(document, "", &status);
  ModelSpec spec = ReadModel(reader);
  QUERN_RETURN_IF_ERROR(status);
  QUERN_RETURN_IF_ERROR(CheckCapabilities(spec));
  return spec;
}

absl::StatusOr<CanarySpec> ParseCanaryJson(absl::string_view json,
                                           int64_t dimension) {
  QUERN_ASSIGN_OR_RETURN(const Json document, Parse(json));
  absl::Status status;
  ObjectReader reader(document, "", &status);
  CanarySpec spec;
  if (reader.Has("texts")) {
    for (ObjectReader& text : reader.Objects("texts")) {
      spec.texts.push_back({.text = text.String("text"),
                            .ids = text.TokenIds("ids"),
                            .embedding = text.Numbers("embedding", dimension)});
      text.Finish();
    }
  }
  if (reader.Has("images")) {
    for (ObjectReader& image : reader.Objects("images")) {
      spec.images.push_back(
          {.file = image.String("file"),
           .embedding = image.Numbers("embedding", dimension)});
      if (image.Has("cells")) {
        spec.images.back().cells = ReadCanaryCells(image, dimension);
      }
      image.Finish();
    }
  }
  if (reader.Has("matches")) {
    for (ObjectReader& match : reader.Objects("matches")) {
      spec.matches.push_back({.text = match.String("text"),
                              .file = match.String("file"),
                              .score = match.Number("score")});
      match.Finish();
    }
  }
  if (reader.Has("moments")) {
    for (ObjectReader& moment : reader.Objects("moments")) {
      spec.moments.push_back(ReadCanaryMoment(moment));
    }
  }
  // Vectors have length one: a tolerance of one would let anything pass.
  constexpr double kMaxTolerance = 0.1;
  spec.tolerance = reader.NumberAbove("tolerance", 0, kMaxTolerance);
  reader.Finish();
  QUERN_RETURN_IF_ERROR(status);
  return spec;
}

}  // namespace quern
