#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"
#include "engine/batch/batcher.h"
#include "engine/media/image.h"
#include "engine/media/preprocess.h"
#include "engine/model/encoder.h"
#include "engine/model/model_json.h"
#include "engine/text/tokenizer.h"

namespace quern {

// Number format of the towers' arithmetic. Embeddings come out as floats.
enum class Precision {
  kAuto,  // The fastest that keeps the quality; never what a model reports.
  kFp32,
  kBf16,  // bfloat16 weights and activations.
};

// "auto", "fp32" or "bf16".
absl::string_view PrecisionName(Precision precision);

// What a package says of itself. See model_package.h for the file format.
struct ModelInfo {
  std::string name;     // "quern-lite"
  std::string version;  // "1.0.0"
  std::string description;
  std::string licence;
  std::string
      fingerprint;  // Hex SHA-256 over the package; see model_package.h.
  int64_t dimension = 0;
  // "image.global", "image.dense", "text.global", "text.tokens", "match",
  // "moments".
  std::vector<std::string> capabilities;
  std::string device;  // Where it runs: "cpu" or "cuda:N".
  Precision precision = Precision::kFp32;
  int64_t memory_bytes = 0;  // Size of the parameters as they are held.
  int64_t max_tokens = 0;    // Longest text read; 0 without a text tower.
  absl::Time load_time;      // When its canary had passed.
  // As in ImageTowerSpec.
  int64_t size_multiple = 1;
  int64_t dense_side = 0;
  // As in MomentsHeadSpec; 0 without the head.
  int64_t max_moment_frames = 0;
  int64_t max_moment_tokens = 0;
  // Empty where the package has none.
  std::optional<CalibrationSpec> regions;
  std::optional<CalibrationSpec> segments;

  bool Has(absl::string_view capability) const;
};

// One row on its way through a tower: filled by the caller, who keeps it alive
// until `on_done` has been called.
struct EncodeRow : BatchItem {
  // Called once, on a batcher's thread, when `status` is set. Must be quick.
  std::function<void()> on_done;
};

struct TextRow : EncodeRow {
  Tokens tokens;  // `size` is their number.
  bool wants_embedding = true;
  bool wants_tokens = false;

  std::vector<float> embedding;  // [dimension], L2-normalised.
  Matrix features;               // [tokens, dimension], not normalised.
};

struct ImageRow : EncodeRow {
  std::vector<uint8_t> rgb;  // Of a picture that Fit() made; `size` is 1.
  // Of `rgb`; 0: those of the model's preprocessing. Rows of other sizes want
  // no embedding, and `size` is how much larger their area is, at least 1.
  int64_t height = 0;
  int64_t width = 0;
  bool wants_embedding = true;
  bool wants_dense = false;

  std::vector<float> embedding;  // [dimension], L2-normalised.
  DenseMaps dense;               // One row.
};

struct ModelBatching {
  BatchOptions text;
  BatchOptions image;
  const Clock* clock = nullptr;  // Outlives the model; null: the real time.
};

// A loaded model: tokeniser, preprocessing and towers as one, with a batcher
// before each tower. What it is never changes. Thread-safe.
//
// Whoever holds a model may submit rows; the last holder's release runs what
// waits and joins the batchers' threads, so it must not come from on_done.
class Model {
 public:
  Model(ModelInfo info, ImagePreprocessing preprocessing,
        std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<Encoder> encoder,
        const ModelBatching& batching = {});

  const ModelInfo& info() const { return info_; }
  const ImagePreprocessing& preprocessing() const { return preprocessing_; }
  const Encoder& encoder() const { return *encoder_; }
  // Null without a text tower.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // kFailedPrecondition naming the model and the capability it lacks.
  absl::Status Require(absl::string_view capability) const;

  // For TextRows and ImageRows. Null without the tower.
  Batcher* text_batcher() const { return text_batcher_.get(); }
  Batcher* image_batcher() const { return image_batcher_.get(); }

  struct TextEmbedding {
    std::vector<float> embedding;  // [dimension], L2-normalised.
    bool truncated = false;        // The text was longer than the tower reads.
    int64_t tokens = 0;            // Read, special tokens included.
  };

  // On the caller's thread, past the batchers. Errors: kFailedPrecondition
  // naming the missing capability, else as Encoder.
  absl::StatusOr<TextEmbedding> EmbedText(absl::string_view text) const;

  // [dimension], L2-normalised. Likewise.
  absl::StatusOr<std::vector<float>> EmbedImage(const Image& image) const;

 private:
  absl::Status RunTexts(absl::Span<BatchItem* const> batch) const;
  absl::Status RunImages(absl::Span<BatchItem* const> batch) const;

  const ModelInfo info_;
  const ImagePreprocessing preprocessing_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<Encoder> encoder_;
  // Last: their threads use the others.
  std::unique_ptr<Batcher> text_batcher_;
  std::unique_ptr<Batcher> image_batcher_;
};

}  // namespace quern
