#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "engine/media/preprocess.h"

// The JSON files of a model package as structs. File names are as written
// there, relative to the folder of the JSON file; nothing here touches the
// disk.

namespace quern {

struct ImageTowerSpec {
  std::string file;           // TorchScript.
  std::string global_method;  // Pixels -> embeddings.
  std::string dense_method;   // Pixels -> grids; empty: none.
  ImagePreprocessing preprocessing;
  int64_t size_multiple = 1;  // Both sides of an input divide by it; >= 1.
  int64_t dense_stride = 0;   // Pixels per cell of a grid; 0: no grid.
  // Side in pixels of the square whose area a picture is squashed to, in its
  // own shape, before things are looked for in its grid; a multiple of
  // `size_multiple`. 0: the tower takes the size of `preprocessing` alone.
  int64_t dense_side = 0;
};

struct WordPieceSpec {
  std::string vocabulary;  // File.
  bool lowercase = true;
  bool strip_accents = true;
  int64_t max_tokens = 0;  // Special tokens included, as in the others.
};

struct ClipBpeSpec {
  std::string vocabulary;  // File, as vocab.json of Hugging Face.
  std::string merges;      // File, as merges.txt of Hugging Face.
  int64_t max_tokens = 0;
};

struct SentencePieceSpec {
  std::string model;  // File.
  bool lowercase = false;
  bool remove_punctuation = false;
  bool add_bos = false;
  bool add_eos = false;
  int64_t max_tokens = 0;
};

// By "kind": "wordpiece", "clip_bpe" or "sentencepiece". What the fields mean:
// the Options of the tokenisers in engine/text.
using TokenizerSpec =
    std::variant<WordPieceSpec, ClipBpeSpec, SentencePieceSpec>;

// The files that the tokeniser reads.
std::vector<std::string> FilesOf(const TokenizerSpec& tokenizer);
int64_t MaxTokensOf(const TokenizerSpec& tokenizer);

struct TextTowerSpec {
  std::string file;           // TorchScript.
  std::string global_method;  // Ids and mask -> embeddings.
  std::string tokens_method;  // Ids and mask -> a vector per token; or empty.
  std::string packed_method;  // See TorchEncoderOptions; or empty.
  TokenizerSpec tokenizer;
};

// Reads a picture and a text together. The picture is preprocessed as for the
// image tower, the text tokenised as for the text tower.
struct MatchHeadSpec {
  std::string file;          // TorchScript.
  std::string score_method;  // Pixels, ids and mask -> a logit per pair.
};

// Finds a text's moments in a video: Moment-DETR's interface (Lei et al.,
// "QVHighlights: Detecting moments and highlights in videos via natural
// language queries", 2021). See TorchEncoderOptions.
struct MomentsHeadSpec {
  std::string file;            // TorchScript.
  std::string predict_method;  // Token features, mask and frames -> spans.
  int64_t max_frames = 0;      // >= 1; of longer videos neighbours are pooled.
  int64_t max_tokens = 0;      // >= 1; longer texts are cut.
};

// How probable it is that what a text speaks of is there, by the scores of a
// map: a logistic regression; see PresenceCalibration in
// engine/fine/presence.h. Weights are any finite numbers.
struct CalibrationSpec {
  double bias = 0;
  double peak = 0;
  double mean = 0;
  double deviation = 0;
  double best = 0;  // Optional in the file, as the next two are.
  double inside = 0;
  double pooled = 0;
  double threshold = 0;  // In [0, 1].
};

// model.json of format_version 1.
struct ModelSpec {
  std::string name;  // 1 to 64 of a-z, 0-9, '-', '_', '.'.
  std::string version;
  std::string description;
  std::string licence;
  int64_t dimension = 0;
  std::vector<std::string> capabilities;
  std::optional<ImageTowerSpec> image;
  std::optional<TextTowerSpec> text;
  std::optional<MatchHeadSpec> match;      // Needs both towers.
  std::optional<MomentsHeadSpec> moments;  // Likewise, and token features.
  std::string canary_file;
  std::optional<CalibrationSpec> regions;   // Of pictures' grids.
  std::optional<CalibrationSpec> segments;  // Of videos' frames.
};

struct CanaryText {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<float> embedding;
};

// One cell of a picture's grid.
struct CanaryCell {
  int64_t row = 0;
  int64_t column = 0;
  std::vector<float> embedding;  // L2-normalised.
};

struct CanaryImage {
  std::string file;
  std::vector<float> embedding;
  std::vector<CanaryCell> cells;  // Of the dense output; may be empty.
};

struct CanaryMatch {
  std::string text;
  std::string file;
  float score = 0;
};

// Spans are in the order of the head's output.
struct CanaryMoment {
  std::string text;
  std::vector<std::string> frames;  // Files of pictures.
  std::vector<float> spans;         // [spans, 3]: probability, centre, width.
  std::vector<float> saliency;      // One per frame.
};

// Inputs with the outputs that the exporter saw.
struct CanarySpec {
  std::vector<CanaryText> texts;
  std::vector<CanaryImage> images;
  std::vector<CanaryMatch> matches;
  std::vector<CanaryMoment> moments;
  double tolerance = 0;  // Largest difference of any value; > 0.
};

// Unknown keys are refused everywhere but in "figures" and "calibration", which
// also hold what the exporter likes to note. Of "calibration" the keys
// "regions" and "segments" are read. Errors: kInvalidArgument with the path of
// the key ("image.preprocess.width"), its value and what is allowed.
absl::StatusOr<ModelSpec> ParseModelJson(absl::string_view json);

// Every embedding has `dimension` values.
absl::StatusOr<CanarySpec> ParseCanaryJson(absl::string_view json,
                                           int64_t dimension);

}  // namespace quern
